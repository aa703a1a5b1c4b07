// Every operation, by openapi-fetch, with types that openapi-typescript makes of the document:
// a misspelt path, a wrong type or a missing field is an error of the compiler.

import createClient from "openapi-fetch";
import type { components, paths } from "./schema.js";

type Problem = components["schemas"]["Problem"];

const [, , baseUrl, token, proxy] = process.argv;
const client = createClient<paths>({ baseUrl, headers: { authorization: `Bearer ${token}` } });

/** The data of an answer, or its problem document as an exception. */
function must<T>(answer: { data?: T; error?: unknown; response: Response }): T {
  if (!answer.response.ok) throw new Error((answer.error as Problem | undefined)?.detail);
  return answer.data as T;
}

must(await client.GET("/healthz"));
must(await client.GET("/readyz"));

// Users

const body = { email: "ada@example.com", name: "Ada Lovelace" };
const created = await client.POST("/users", {
  body,
  params: { header: { "Idempotency-Key": "first" } },
});
const user = must(created);
const bio: string | null = user.bio; // it is always there
const user_id = user.id;
const read = await client.GET("/users/{user_id}", { params: { path: { user_id } } });
const tag = read.response.headers.get("etag") ?? "";
must(
  await client.PATCH("/users/{user_id}", {
    params: { path: { user_id }, header: { "If-Match": tag } },
    body: { name: "Ada King" },
  }),
);
const stale = await client.PATCH("/users/{user_id}", {
  params: { path: { user_id }, header: { "If-Match": tag } },
  body: { bio },
});
if (stale.response.status !== 412) throw new Error("the tag was stale");
const counted = await client.GET("/users", {
  params: { query: { sort: "name", order: "desc", limit: 10 }, header: { Prefer: "count=exact" } },
});
if (must(counted)[0]?.name !== "Ada King") throw new Error("the list has the change");
if (counted.response.headers.get("x-total-count") !== "1") throw new Error("one row");

// Posts

const post = must(
  await client.POST("/users/{user_id}/posts", {
    params: { path: { user_id } },
    body: { title: "Notes", body: "It weaves." },
  }),
);
const post_id = post.id;
must(await client.GET("/users/{user_id}/posts", { params: { path: { user_id } } }));
const author: string = must(await client.GET("/posts"))[0]!.author.name;
must(await client.GET("/posts/{post_id}", { params: { path: { post_id } } }));
must(
  await client.PATCH("/posts/{post_id}", { params: { path: { post_id } }, body: { title: author } }),
);
must(await client.DELETE("/posts/{post_id}", { params: { path: { post_id } } }));

// Todos

const due_at = "2030-01-31T12:00:00Z";
const todo = must(
  await client.POST("/todos", { body: { title: "Cards", owner_id: user_id, due_at, done: false } }),
);
const todo_id = todo.id;
must(await client.GET("/todos", { params: { query: { done: false, q: "card", sort: "due_at" } } }));
must(await client.GET("/todos/{todo_id}", { params: { path: { todo_id } } }));
must(
  await client.PATCH("/todos/{todo_id}", { params: { path: { todo_id } }, body: { done: true } }),
);
must(await client.DELETE("/todos/{todo_id}", { params: { path: { todo_id } } }));

// Items

const item = must(await client.POST("/items", { body: { name: "Card" } }));
const item_id = item.id;
const batch = must(await client.POST("/items/batch", { body: [{ name: "a" }, { name: "b" }] }));
const ids = batch.map((row) => row.id);
if (must(await client.GET("/items", { params: { query: { id: ids } } })).length !== 2) {
  throw new Error("both of the batch");
}
must(await client.GET("/items", { params: { query: { owner_id_is_null: true } } }));
must(await client.GET("/items/{item_id}", { params: { path: { item_id } } }));
must(
  await client.PATCH("/items/{item_id}", {
    params: { path: { item_id } },
    // As a form sends it: with what cannot be changed, which a validating proxy refuses.
    body: proxy ? { owner_id: user_id } : { ...item, owner_id: user_id },
  }),
);
must(await client.DELETE("/items/{item_id}", { params: { path: { item_id } } }));
must(await client.DELETE("/users/{user_id}", { params: { path: { user_id } } }));

console.log("every operation answered");
