// An admin front end for the items, by refine without a design system: open refine.html?url=…

import { useState } from "react";
import { createRoot } from "react-dom/client";
import { Refine, useDelete, useOne, useTable, useUpdate } from "@refinedev/core";
import { dataProvider } from "./refine-provider.js";

type Item = { id: number; name: string; description: string | null };

const { url, token } = Object.fromEntries(new URLSearchParams(location.search));

function Items({ open }: { open: (id: number) => void }) {
  const table = useTable<Item>({ resource: "items", pagination: { pageSize: 10 } });
  const { currentPage, setCurrentPage, pageCount, setSorters, setFilters, result } = table;
  const find = (name: string) => {
    setFilters([{ field: "name", operator: "eq", value: name }]);
    setCurrentPage(1);
  };
  return (
    <>
      <label>
        Name <input onChange={(event) => find(event.target.value)} />
      </label>
      <table>
        <thead>
          <tr>
            <th onClick={() => setSorters([{ field: "id", order: "desc" }])}>Id</th>
            <th onClick={() => setSorters([{ field: "name", order: "asc" }])}>Name</th>
          </tr>
        </thead>
        <tbody>
          {result.data.map((item) => (
            <tr key={item.id} onClick={() => open(item.id)}>
              <td>{item.id}</td>
              <td>{item.name}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <output>
        {result.total} items, page {currentPage} of {pageCount}
      </output>
      <button onClick={() => setCurrentPage(currentPage + 1)}>Next</button>
    </>
  );
}

function Item({ id, close }: { id: number; close: () => void }) {
  const { result: item } = useOne<Item>({ resource: "items", id });
  const { mutate: update } = useUpdate<Item>();
  const { mutate: remove } = useDelete<Item>();
  const [name, setName] = useState<string>();
  const [message, setMessage] = useState("");
  if (!item) return null;
  const end = { onSuccess: close, onError: (error: { message: string }) => setMessage(error.message) };
  return (
    <form onSubmit={(event) => event.preventDefault()}>
      <label>
        Name <input value={name ?? item.name} onChange={(event) => setName(event.target.value)} />
      </label>
      <button onClick={() => update({ resource: "items", id, values: { name } }, end)}>Save</button>
      <button onClick={() => remove({ resource: "items", id }, end)}>Delete</button>
      <p role="alert">{message}</p>
    </form>
  );
}

function App() {
  const [id, setId] = useState<number>();
  return id === undefined ? <Items open={setId} /> : <Item id={id} close={() => setId(undefined)} />;
}

createRoot(document.getElementById("root")!).render(
  <Refine dataProvider={dataProvider(url ?? "", token)} options={{ disableTelemetry: true }}>
    <App />
  </Refine>,
);
