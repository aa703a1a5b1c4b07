// Makes a Postman collection of the OpenAPI document, as Postman's import does, with the parameters taken
// from examples: node postman.mjs openapi.json collection.json
// Its calls can be run one after the other: rows are created first, and deleted last.

import { readFileSync, writeFileSync } from "node:fs";
import converter from "openapi-to-postmanv2";

const [, , from, to] = process.argv;
const options = { parametersResolution: "Example" };
const flatten = (item) => (item.item ? item.item.flatMap(flatten) : [item]);

converter.convertV2({ type: "string", data: readFileSync(from, "utf8") }, options, (error, made) => {
  if (error || !made.result) throw error ?? new Error(made.reason);
  const collection = made.output[0].data;
  const calls = flatten(collection);
  const by = (...methods) => calls.filter((call) => methods.includes(call.request.method));
  collection.item = [...by("POST"), ...by("GET", "PATCH"), ...by("DELETE").reverse()];
  writeFileSync(to, JSON.stringify(collection, null, 2));
});
