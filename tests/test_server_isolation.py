"""Three tenants do as they like with files and batches, and none ever sees a byte or an id of another."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import tempfile
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import asyncllm.workspace.tenants
from asyncllm import Client
from asyncllm.server import ServerSettings
from asyncllm.server.app import application_of
from asyncllm.server.service import Service
from asyncllm.workspace.served import ServerStore

TENANTS = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(0, 1000)
CHAT = "/v1/chat/completions"


def row(tenant: str, number: int) -> bytes:
    body = {"model": "echo:x", "messages": [{"role": "user", "content": f"of {tenant}"}]}
    line = {"custom_id": f"of {tenant}", "method": "POST", "url": CHAT, "body": body}
    return json.dumps(line).encode() + b"\n" * (1 + number % 3)


class Tenants(RuleBasedStateMachine):
    """The server over ASGI, and beside it what each tenant has by its own account."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.files: dict[str, tuple[str, bytes]] = {}
        self.gone: set[str] = set()
        self.batches: dict[str, str] = {}
        self.http: dict[str, httpx.AsyncClient] = {}
        self.loop.run(self.begin())

    async def begin(self) -> None:
        self.store = await ServerStore(Path(self.folder.name) / "w").__aenter__()
        self.client = Client(model="echo:x")
        self.service = Service(self.client, ServerSettings(needs_key=True), self.store)
        transport = httpx.ASGITransport(application_of(self.service))
        for tenant in ("a", "b", "c"):
            _, token = await self.store.keys.add("k", tenant=tenant)
            headers = {"authorization": f"Bearer {token}"}
            self.http[tenant] = httpx.AsyncClient(transport=transport, base_url="http://x/v1", headers=headers)

    def teardown(self) -> None:
        async def end() -> None:
            await self.service.__aexit__()
            await self.client.aclose()
            await self.store.__aexit__()

        self.loop.run(end())
        self.loop.close()
        self.folder.cleanup()

    def ask(self, tenant: str, method: str, path: str, **options: Any) -> httpx.Response:
        reply = self.loop.run(self.http[tenant].request(method, path, **options))
        assert reply.status_code in (200, 404, 409)
        foreign = [f"of {other}".encode() for other in self.http if other != tenant]
        others = [id_ for id_, (owner, _) in self.files.items() if owner != tenant]
        others += [id_ for id_, owner in self.batches.items() if owner != tenant]
        assert not any(told in reply.content for told in foreign)
        assert reply.status_code == 404 or not any(id_.encode() in reply.content for id_ in others)
        return reply

    def one(self, known: dict[str, Any], number: int) -> str:
        """Any id that was ever given to anybody."""
        return sorted(known)[number % len(known)] if known else f"file-{'0' * 26}"

    @rule(tenant=TENANTS, number=NUMBERS)
    def upload(self, tenant: str, number: int) -> None:
        data = row(tenant, number)
        made = self.ask(tenant, "POST", "/files", data={"purpose": "batch"}, files={"file": data}).json()
        assert made["id"] not in self.files
        self.files[made["id"]] = tenant, data

    @rule(tenant=TENANTS, number=NUMBERS)
    def read(self, tenant: str, number: int) -> None:
        id_ = self.one(self.files, number)
        owner, data = self.files.get(id_, ("", b""))
        reply = self.ask(tenant, "GET", f"/files/{id_}/content")
        assert (reply.status_code == 200) == (owner == tenant and id_ not in self.gone)
        assert reply.status_code == 404 or reply.content == data
        assert self.ask(tenant, "GET", f"/files/{id_}").status_code == reply.status_code

    @rule(tenant=TENANTS, number=NUMBERS)
    def delete(self, tenant: str, number: int) -> None:
        id_ = self.one(self.files, number)
        was_there = self.files.get(id_, ("", b""))[0] == tenant and id_ not in self.gone
        assert (self.ask(tenant, "DELETE", f"/files/{id_}").status_code == 200) == was_there
        if was_there:
            self.gone.add(id_)

    @rule(tenant=TENANTS, number=NUMBERS, limit=st.integers(1, 3))
    def read_on(self, tenant: str, number: int, limit: int) -> None:
        after = self.one(self.files, number)
        page = self.ask(tenant, "GET", f"/files?after={after}&limit={limit}&purpose=batch").json()
        own = sorted((id_ for id_ in self.own(tenant) if id_ < after), reverse=True)
        assert [file["id"] for file in page["data"]] == own[:limit]
        assert page["has_more"] == (len(own) > limit)

    @rule(tenant=TENANTS, number=NUMBERS)
    def begin_batch(self, tenant: str, number: int) -> None:
        id_ = self.one(self.files, number)
        asked = {"input_file_id": id_, "endpoint": CHAT, "completion_window": "24h"}
        reply = self.ask(tenant, "POST", "/batches", json=asked)
        assert (reply.status_code == 200) == (id_ in self.own(tenant))
        if reply.status_code == 200:
            self.batches[reply.json()["id"]] = tenant

    @rule(tenant=TENANTS, number=NUMBERS, cancels=st.booleans())
    def look_at_batch(self, tenant: str, number: int, cancels: bool) -> None:
        id_ = self.one(self.batches, number)
        method, path = ("POST", f"/batches/{id_}/cancel") if cancels else ("GET", f"/batches/{id_}")
        reply = self.ask(tenant, method, path)
        assert (reply.status_code == 404) == (self.batches.get(id_) != tenant)

    @rule(tenant=TENANTS)
    def read_outputs(self, tenant: str) -> None:
        own = [id_ for id_, owner in self.batches.items() if owner == tenant]
        for batch in self.ask(tenant, "GET", "/batches?limit=100").json()["data"]:
            assert batch["id"] in own
            if batch["output_file_id"] is not None:
                content = self.ask(tenant, "GET", f"/files/{batch['output_file_id']}/content").content
                assert json.loads(content)["custom_id"] == f"of {tenant}"

    @invariant()
    def each_has_its_own(self) -> None:
        for tenant in self.http:
            listed = self.ask(tenant, "GET", "/files?purpose=batch").json()["data"]
            assert {file["id"] for file in listed} == self.own(tenant)

    def own(self, tenant: str) -> set[str]:
        return {id_ for id_, (owner, _) in self.files.items() if owner == tenant and id_ not in self.gone}


def test_no_tenant_sees_what_another_has() -> None:
    run_state_machine_as_test(Tenants, settings=settings(max_examples=8, stateful_step_count=25, deadline=None))


@pytest.mark.slow
def test_no_tenant_sees_what_another_has_in_many_more_ways() -> None:
    run_state_machine_as_test(Tenants, settings=settings(max_examples=300, stateful_step_count=60, deadline=None))


def test_every_statement_of_the_repository_is_one_tenants() -> None:
    tree = ast.parse(inspect.getsource(asyncllm.workspace.tenants))
    statements = [
        ast.unparse(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "execute"
    ]

    assert len(statements) >= 10
    for statement in statements:
        selects = statement.count("SELECT") + statement.count("UPDATE") + statement.count("DELETE")
        assert statement.count("WHERE tenant = ?") + statement.count("AND tenant = ?") == selects or (
            "INSERT INTO" in statement and "(tenant, " in statement
        ), statement
