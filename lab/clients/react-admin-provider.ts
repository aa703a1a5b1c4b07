// A data provider for react-admin.

import { HttpError, type DataProvider, type Identifier, type RaRecord } from "react-admin";
import { changes, Nutshell, Problem } from "./nutshell.js";

export function dataProvider(url: string, token?: string): DataProvider {
  const service = new Nutshell(url, token);

  async function tell<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } catch (error) {
      if (error instanceof Problem) throw new HttpError(error.message, error.status, error.document);
      throw error;
    }
  }

  async function list(resource: string, asked: any, filter: object) {
    const { page = 1, perPage = 25 } = asked.pagination ?? {};
    const query = {
      limit: perPage,
      offset: (page - 1) * perPage,
      sort: asked.sort?.field,
      order: asked.sort?.order === "DESC" ? "desc" : "asc",
      filter: { ...asked.filter, ...filter },
    } as const;
    const { rows, total } = await tell(service.list(resource, query));
    return { data: rows as any[], total };
  }

  const each = (ids: Identifier[], work: (id: number) => Promise<unknown>) =>
    tell(Promise.all(ids.map((id) => work(Number(id))))).then(() => ({ data: ids as any[] }));

  const row = async (work: Promise<RaRecord>) => ({ data: (await tell(work)) as any });

  return {
    getList: (resource, asked) => list(resource, asked, {}),
    getManyReference: (resource, asked) => list(resource, asked, { [asked.target]: asked.id }),
    getOne: (resource, { id }) => row(service.read(resource, Number(id))),
    getMany: async (resource, { ids }) => ({
      data: (await tell(service.many(resource, ids.map(Number)))) as any[],
    }),
    create: (resource, { data }) => row(service.create(resource, data)),
    update: (resource, { id, data, previousData }) =>
      row(service.update(resource, Number(id), changes(previousData, data))),
    updateMany: (resource, { ids, data }) =>
      each(ids, (id) => service.update(resource, id, data)),
    delete: async (resource, { id, previousData }) => {
      await tell(service.delete(resource, Number(id)));
      return { data: previousData as any };
    },
    deleteMany: (resource, { ids }) => each(ids, (id) => service.delete(resource, id)),
  };
}
