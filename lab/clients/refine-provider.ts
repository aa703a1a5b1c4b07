// A data provider for refine.

import type { CrudFilter, DataProvider, HttpError } from "@refinedev/core";
import { Nutshell, Problem } from "./nutshell.js";

export function dataProvider(url: string, token?: string): DataProvider {
  const service = new Nutshell(url, token);

  async function tell<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      const told: HttpError = { message: error.message, statusCode: error.status };
      throw told;
    }
  }

  const equal = (filter: CrudFilter) =>
    "field" in filter && filter.operator === "eq" ? [[filter.field, filter.value]] : [];

  return {
    getApiUrl: () => url,
    getList: async ({ resource, pagination, sorters, filters }) => {
      const { currentPage = 1, pageSize = 10 } = pagination ?? {};
      const query = {
        limit: pageSize,
        offset: (currentPage - 1) * pageSize,
        sort: sorters?.[0]?.field,
        order: sorters?.[0]?.order,
        filter: Object.fromEntries((filters ?? []).flatMap(equal)),
      };
      const { rows, total } = await tell(service.list(resource, query));
      return { data: rows as any[], total };
    },
    getMany: async ({ resource, ids }) => ({
      data: (await tell(service.many(resource, ids.map(Number)))) as any[],
    }),
    getOne: async ({ resource, id }) => ({
      data: (await tell(service.read(resource, Number(id)))) as any,
    }),
    create: async ({ resource, variables }) => ({
      data: (await tell(service.create(resource, variables as object))) as any,
    }),
    update: async ({ resource, id, variables }) => ({
      data: (await tell(service.update(resource, Number(id), variables as object))) as any,
    }),
    deleteOne: async ({ resource, id }) => {
      await tell(service.delete(resource, Number(id)));
      return { data: { id } as any };
    },
  };
}
