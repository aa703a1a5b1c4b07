// An admin front end for the items, by react-admin: open react-admin.html?url=…#token=…

import { createRoot } from "react-dom/client";
import {
  Admin,
  Datagrid,
  Edit,
  List,
  NumberField,
  Resource,
  SimpleForm,
  TextField,
  TextInput,
} from "react-admin";
import { dataProvider } from "./react-admin-provider.js";

const { url, token } = Object.fromEntries(new URLSearchParams(location.search));

const ItemList = () => (
  <List filters={[<TextInput key="name" source="name" alwaysOn />]} perPage={10}>
    <Datagrid rowClick="edit">
      <NumberField source="id" />
      <TextField source="name" />
      <TextField source="description" sortable={false} />
    </Datagrid>
  </List>
);

const ItemEdit = () => (
  // pessimistic: what is shown has been stored, or the error is.
  <Edit mutationMode="pessimistic">
    <SimpleForm>
      <TextInput source="name" />
      <TextInput source="description" />
    </SimpleForm>
  </Edit>
);

createRoot(document.getElementById("root")!).render(
  <Admin dataProvider={dataProvider(url ?? "", token)} disableTelemetry>
    <Resource name="items" list={ItemList} edit={ItemEdit} recordRepresentation="name" />
  </Admin>,
);
