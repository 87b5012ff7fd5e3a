"""Who calls Amazon Bedrock: a bearer token, or AWS keys and the signature made with them.

Keys come from the options, the environment that the client was given, or, where neither has any, the rest of AWS's
usual chain (profiles, single sign-on, containers, instances) by way of botocore, which makes the signatures too.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html. What is signed is what is sent: nothing
below adds to a call but what HTTP itself needs, none of which is signed but the host.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Protocol

from asyncllm.backend import Config, Secret
from asyncllm.errors import ConfigError

__all__ = ["Bearer", "Caller", "OPTIONS", "SigV4", "caller", "needs_region", "region_of"]

OPTIONS = ("access_key_id", "profile", "region", "secret_access_key", "session_token")

_SERVICE = "bedrock"
_REGION = re.compile(r"[a-z0-9-]{1,40}")


class Caller(Protocol):
    """Says who makes a call."""

    region: str | None

    async def sign(self, url: str, headers: Mapping[str, str], body: bytes, /) -> dict[str, str]:
        """The headers of a POST to `url` with those that say who calls. Raises `ConfigError`."""
        ...


class Bearer:
    """A key of Bedrock's own."""

    def __init__(self, key: Secret, region: str | None) -> None:
        self.region = region
        self._key = key

    async def sign(self, _: str, headers: Mapping[str, str], __: bytes, /) -> dict[str, str]:
        """See `Caller`."""
        return {**headers, "Authorization": f"Bearer {self._key.reveal()}"}


class SigV4:
    """AWS keys: those given, or those that botocore finds when the first call needs them."""

    def __init__(self, config: Config, env: Mapping[str, str]) -> None:
        if find_spec("botocore") is None:
            raise ConfigError(
                f"the {config.backend!r} backend signs its calls with botocore: pip install 'asyncllm[bedrock]', or "
                "set AWS_BEARER_TOKEN_BEDROCK",
                backend=config.backend,
            )
        self._backend = config.backend
        self._auth: Any = import_module("botocore.auth")
        self._requests: Any = import_module("botocore.awsrequest")
        self._failures: Any = import_module("botocore.exceptions")
        self._finding = threading.Lock()
        self._credentials: Any = _given(config, env)
        self._profile = config.option("profile", str, "") or env.get("AWS_PROFILE", "").strip() or None
        self.region = region_of(config, env) or self._profile_region()
        if self.region is None:
            raise needs_region(config)

    async def sign(self, url: str, headers: Mapping[str, str], body: bytes, /) -> dict[str, str]:
        """See `Caller`."""
        credentials = self._credentials
        is_stale = getattr(credentials, "refresh_needed", None)
        if credentials is None or (is_stale is not None and is_stale()):
            # Files, processes, other servers: whatever the chain asks, it waits for.
            frozen = await asyncio.to_thread(self._find)
        else:
            frozen = credentials.get_frozen_credentials()
        request = self._requests.AWSRequest(method="POST", url=url, headers=dict(headers), data=body)
        self._auth.SigV4Auth(frozen, _SERVICE, self.region).add_auth(request)
        return dict(request.headers.items())

    def _find(self) -> Any:
        """The keys of the chain, fresh. The environment of the process is not asked: the client's own has been."""
        with self._finding:
            try:
                if self._credentials is None:
                    session = self._session()
                    session.get_component("credential_provider").remove("env")
                    self._credentials = session.get_credentials()
                if self._credentials is not None:
                    return self._credentials.get_frozen_credentials()
            except (self._failures.BotoCoreError, self._failures.ClientError) as error:
                raise self._unknown(f"AWS's chain fails ({type(error).__name__})") from None
            raise self._unknown("nobody has any")

    def _session(self) -> Any:
        return import_module("botocore.session").Session(profile=self._profile)

    def _profile_region(self) -> str | None:
        try:
            region = self._session().get_scoped_config().get("region")
        except self._failures.BotoCoreError as error:
            raise self._unknown(f"the profile cannot be read ({type(error).__name__})") from None
        return _checked(str(region), self._backend) if region else None

    def _unknown(self, why: str) -> ConfigError:
        return ConfigError(
            f"the {self._backend!r} backend needs AWS keys, and {why}: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or AWS_BEARER_TOKEN_BEDROCK",
            backend=self._backend,
            field="access_key_id",
        )


def caller(config: Config, env: Mapping[str, str]) -> Caller:
    """Who `config` says calls, else who `env` does. Raises `ConfigError` where it says two things at once."""
    given = [name for name in ("access_key_id", "profile") if config.options.get(name)]
    if config.api_key is not None and given:
        raise ConfigError(
            f"the {config.backend!r} backend takes api_key= or the option {given[0]!r}, not both",
            backend=config.backend,
            field=given[0],
        )
    key = None if given else config.key(env, "AWS_BEARER_TOKEN_BEDROCK")
    return SigV4(config, env) if key is None else Bearer(key, region_of(config, env))


def region_of(config: Config, env: Mapping[str, str]) -> str | None:
    """The region by option or environment; it becomes a part of the address that keys are sent to, so it is checked."""
    region = config.option("region", str, "")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        region = region or env.get(name, "").strip()
    return _checked(region, config.backend) if region else None


def needs_region(config: Config) -> ConfigError:
    """The error for a region that nobody names."""
    return ConfigError(
        f"the {config.backend!r} backend needs a region: set AWS_REGION or the option region",
        backend=config.backend,
        field="region",
    )


def _checked(region: str, backend: str) -> str:
    if not _REGION.fullmatch(region):
        raise ConfigError(
            f"a region is a name such as 'us-east-1', not {region[:40]!r}", backend=backend, field="region"
        )
    return region


def _given(config: Config, env: Mapping[str, str]) -> Any:
    """Keys by option, else by environment, else none."""
    names = ("access_key_id", "secret_access_key", "session_token")
    values = [config.option(name, str, "") for name in names]
    if not any(values) and not config.options.get("profile"):
        values = [env.get(f"AWS_{name.upper()}", "").strip() for name in names]
    key_id, secret, token = values
    if not any(values):
        return None
    for name, value in (("access_key_id", key_id), ("secret_access_key", secret)):
        if not value:
            raise ConfigError(
                f"the {config.backend!r} backend needs both access_key_id and secret_access_key; {name} is missing",
                backend=config.backend,
                field=name,
            )
    for value in filter(None, values):
        Secret(value)  # which raises for what is none
    return import_module("botocore.credentials").Credentials(key_id, secret, token or None)
