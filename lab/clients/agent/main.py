"""An agent's calls, with the tools that FastMCP makes of the document: python main.py URL TOKEN.

It sees the descriptions of the operations and the bodies of the answers, but no headers.
"""

import asyncio
import sys

import httpx2
from fastmcp import Client, FastMCP


async def main(url: str, token: str) -> None:
    headers = {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers) as http:
        document = (await http.get("/openapi.json")).json()
        async with Client(FastMCP.from_openapi(document, client=http)) as agent:
            tools = {tool.name: tool for tool in await agent.list_tools()}
            operations = [o for path in document["paths"].values() for o in path.values()]
            assert tools.keys() == {operation["operationId"] for operation in operations}

            # "For the next page, repeat the call with `after` set to the `id` of the last row. A page with
            # fewer rows than `limit` is the last one."
            described = tools["list_items"].description
            assert described is not None
            assert "`after` set to the `id` of the last row" in described
            seen, page = [], []
            while not seen or len(page) == 50:
                after = seen[-1]["id"] if seen else 0
                answer = await agent.call_tool("list_items", {"limit": 50, "after": after})
                page = answer.structured_content["result"]
                seen += page
            assert len({item["id"] for item in seen}) == len(seen) == 120

            # "After a timeout or a 503, repeat the request with the same key and body"
            described = tools["create_item"].description
            assert described is not None
            assert "repeat the request with the same key and body" in described
            new = {"name": "Cog", "Idempotency-Key": "agent-1"}
            first = await agent.call_tool("create_item", new)
            again = await agent.call_tool("create_item", new)
            assert first.structured_content == again.structured_content
            item_id = first.structured_content["id"]

            # "If you cannot see headers, leave `If-Match` out"
            described = tools["update_item"].description
            assert described is not None
            assert "leave `If-Match` out" in described
            changed = await agent.call_tool("update_item", {"item_id": item_id, "name": "Wheel"})
            assert changed.structured_content["name"] == "Wheel"
            absent = {"item_id": 2**53 - 1}
            answer = await agent.call_tool("read_item", absent, raise_on_error=False)
            assert answer.is_error
            assert "There is no row with this id." in answer.content[0].text
            await agent.call_tool("delete_item", {"item_id": item_id})
    print("the agent is done")


asyncio.run(main(*sys.argv[1:]))
