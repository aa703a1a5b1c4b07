// `railway config apply` creates these resources. It keeps an API_TOKEN that is already set.
import { defineRailway, postgres, preserve, project, service } from "railway/iac";

export default defineRailway(() => {
  const database = postgres("postgres");
  const web = service("nutshell", {
    preDeploy: "alembic upgrade head",
    start: "python -m nutshell",
    healthcheck: "/healthz",
    deploy: { drainingSeconds: 25 },
    env: { DATABASE_URL: database.env.DATABASE_URL, API_TOKEN: preserve() },
  });
  return project("nutshell", { resources: [database, web] });
});
