// What an admin front end needs of the service, for any of its resources.
// It remembers the `ETag` of each row that it has read, and sends it with a change: who changes or
// deletes a row that somebody else has changed meanwhile is told so (412), and overwrites nothing.

export type Row = { id: number } & Record<string, unknown>;

export type Query = {
  limit: number;
  offset: number;
  sort?: string;
  order?: "asc" | "desc";
  filter?: Record<string, unknown>;
};

export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly document: { detail?: string; errors?: { loc: (string | number)[]; msg: string }[] },
  ) {
    const errors = document.errors?.map((error) => `${error.loc.at(-1)}: ${error.msg}`) ?? [];
    super([document.detail ?? `status ${status}`, ...errors].join(" "));
  }
}

export class Nutshell {
  private tags = new Map<string, string>();

  constructor(
    private url: string,
    private token?: string,
  ) {}

  async list(resource: string, query: Query): Promise<{ rows: Row[]; total: number }> {
    const { filter = {}, ...page } = query;
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries({ ...page, ...filter })) {
      if (value !== undefined && value !== "") parameters.set(name, String(value));
    }
    const answer = await this.call("GET", `${resource}?${parameters}`, undefined, {
      prefer: "count=exact",
    });
    return { rows: await answer.json(), total: Number(answer.headers.get("x-total-count")) };
  }

  /** Several rows by their ids: 100 in each call. Those that do not exist are left out. */
  async many(resource: string, ids: number[]): Promise<Row[]> {
    const rows: Row[] = [];
    for (let start = 0; start < ids.length; start += 100) {
      const some = ids.slice(start, start + 100).map((id) => `id=${id}`);
      rows.push(...(await (await this.call("GET", `${resource}?${some.join("&")}`)).json()));
    }
    return rows;
  }

  async read(resource: string, id: number): Promise<Row> {
    return this.remember(resource, await this.call("GET", `${resource}/${id}`));
  }

  /** Creates a row. `retry` is the same for repeats of one attempt: they make one row. */
  async create(resource: string, data: object, retry = crypto.randomUUID()): Promise<Row> {
    const headers = { "idempotency-key": retry };
    return this.remember(resource, await this.call("POST", resource, data, headers));
  }

  async update(resource: string, id: number, changes: object): Promise<Row> {
    const answer = await this.call("PATCH", `${resource}/${id}`, changes, this.seen(resource, id));
    return this.remember(resource, answer);
  }

  async delete(resource: string, id: number): Promise<void> {
    await this.call("DELETE", `${resource}/${id}`, undefined, this.seen(resource, id));
    this.tags.delete(`${resource}/${id}`);
  }

  private seen(resource: string, id: number): Record<string, string> {
    const tag = this.tags.get(`${resource}/${id}`);
    return tag ? { "if-match": tag } : {};
  }

  private async remember(resource: string, answer: Response): Promise<Row> {
    const row: Row = await answer.json();
    const tag = answer.headers.get("etag");
    if (tag) this.tags.set(`${resource}/${row.id}`, tag);
    return row;
  }

  private async call(
    method: string,
    path: string,
    body?: object,
    headers: Record<string, string> = {},
  ): Promise<Response> {
    const answer = await fetch(`${this.url}/${path}`, {
      method,
      headers: {
        ...headers,
        ...(this.token ? { authorization: `Bearer ${this.token}` } : {}),
        ...(body ? { "content-type": "application/json" } : {}),
      },
      body: body && JSON.stringify(body),
    });
    if (!answer.ok) throw new Problem(answer.status, await answer.json().catch(() => ({})));
    return answer;
  }
}

/** The fields that differ: a form holds all of them, and PATCH should send what was changed. */
export function changes(before: object, after: object): object {
  const old = before as Record<string, unknown>;
  const differs = ([name, value]: [string, unknown]) =>
    JSON.stringify(value ?? null) !== JSON.stringify(old[name] ?? null);
  return Object.fromEntries(Object.entries(after).filter(differs));
}
