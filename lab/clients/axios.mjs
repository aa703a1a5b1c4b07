// axios writes arrays as `id[]=1`, which the service refuses: node axios.mjs URL TOKEN

import axios from "axios";

const [, , baseURL, token] = process.argv;
const headers = { Authorization: `Bearer ${token}` };
const plain = axios.create({ baseURL, headers });
const client = axios.create({ baseURL, headers, paramsSerializer: { indexes: null } });

const made = await client.post("/items/batch", ["a", "b", "c"].map((name) => ({ name })));
const id = made.data.slice(1).map((item) => item.id);
const found = await client.get("/items", { params: { id } });
if (found.data.map((item) => item.name).join() !== "b,c") throw new Error("two items");
const refused = await plain.get("/items", { params: { id }, validateStatus: null });
if (refused.status !== 422) throw new Error("`id[]` is accepted: say so in docs/api.md");
console.log("axios found both");
