"""Settings: the only reader of the environment. `docs/settings.md` lists every field; a test compares.

Fields that a command needs are also its options; an option wins over the environment (`BAROGRAPH_` before the field's
name), the environment over the default. Settings say where and how the software runs, never what it computes: whatever
changes a result is part of a line's configuration and of its `run`.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Where the parts are and how they run."""

    model_config = SettingsConfigDict(env_prefix="BAROGRAPH_", frozen=True, extra="ignore")

    data_dir: Path = Field(default=Path(".barograph"), description="folder of everything embedded")
    bootstrap_servers: str = Field(default="", description="Kafka brokers, host:port,…; empty: the embedded one")
    kafka_port: int = Field(default=0, ge=0, le=65535, description="port of the embedded broker; 0: a free one")
    kafka_heap_mb: int = Field(default=512, ge=128, description="heap of the embedded broker, MiB")
    clickhouse_url: str = Field(default="", description="ClickHouse HTTP address; empty: the embedded store")
    store_port: int = Field(default=0, ge=0, le=65535, description="port of the embedded store; 0: a free one")
    lake_url: str = Field(
        default="",
        description="where the Parquet lake lies: a folder, or s3://, gs://, az:// with credentials in the "
        "environment; empty: `lake` in the data folder",
    )
    store_reader: str = Field(
        default="",
        pattern=r"^(.+:\d{1,5})?$",
        description="HOST:PORT where anybody may ask the embedded store, read-only and within limits; empty: nowhere",
    )
    sql_url: str = Field(
        default="",
        description="ClickHouse address with the login of a user that may only read, for /v1/sql; empty: the embedded "
        "store's reader, or nowhere if `clickhouse_url` is given",
    )
    state_url: str = Field(
        default="",
        description="where manifests, checkpoints and skips lie: a folder, or s3://, gs://, az:// with credentials in "
        "the environment; empty: `state` in the data folder",
    )
    host: str = Field(
        default="127.0.0.1", description="address that gateway and api bind; only loopback without authentication"
    )
    auth: Literal["none", "keys", "jwt", "both"] = Field(
        default="none",
        description="who is let in: everybody on this machine, or holders of keys (`barograph keys`) or tokens",
    )
    auth_jwks: str = Field(
        default="",
        description="JWKS file with the public keys of the tokens' issuer, reread every 5 s; for jwt and both",
    )
    auth_audience: str = Field(default="barograph", min_length=1, description="what `aud` of a token must name")
    auth_issuer: str = Field(default="", description="what `iss` of a token must be; empty: not looked at")
    auth_algorithms: str = Field(
        default="RS256,ES256,EdDSA",
        pattern=r"^((RS|PS|ES)(256|384|512)|EdDSA)(,((RS|PS|ES)(256|384|512)|EdDSA))*$",
        description="algorithms of tokens that are accepted, of RS, PS and ES 256, 384, 512 and EdDSA",
    )
    auth_role_claim: str = Field(
        default="role",
        min_length=1,
        description="claim of a token that names viewer, trader or admin, or a list of them",
    )
    auth_leeway_s: float = Field(
        default=10.0, ge=0, le=30, description="by how much an issuer's clock may differ from ours, seconds"
    )
    auth_origins: str = Field(
        default="",
        pattern=r"^(https?://[^\s,/]+(,https?://[^\s,/]+)*)?$",
        description="further web origins whose pages may connect, https://desk.example,…; the console's own is known",
    )
    tls_cert: str = Field(
        default="", description="PEM file of the certificate, with its chain, of gateway and api; empty: no TLS"
    )
    tls_key: str = Field(default="", description="PEM file of its private key, without a passphrase")
    gateway_port: int = Field(default=8761, ge=0, le=65535, description="port of the WebSocket gateway; 0: a free one")
    api_port: int = Field(default=8760, ge=0, le=65535, description="port of api and console; 0: a free one")
    token: SecretStr = Field(
        default=SecretStr(""), description="what `watch` presents to a gateway that asks who is there; never shown"
    )
    registry_url: str = Field(
        default="",
        description="Confluent-compatible schema registry, for schemas of others; empty: ours alone are known",
    )
    partitions: int = Field(default=1, ge=1, le=1024, description="partitions of a new tape")
    checkpoint_min_s: float = Field(default=1.0, gt=0, description="shortest time between two checkpoints, seconds")
    checkpoint_max_s: float = Field(default=30.0, gt=0, description="longest time between two checkpoints, seconds")
    reconcile_every_s: float = Field(
        default=0.0, ge=0, description="seconds between comparisons of topics, store and lake in `up`; 0: none"
    )
    metrics_port: int = Field(default=0, ge=0, le=65535, description="port of a stage's or sink's /metrics; 0: none")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least severe message that is logged"
    )

    @property
    def api_scheme(self) -> str:
        """How the address of the api begins."""
        return "https" if self.tls_cert else "http"

    @property
    def gateway_scheme(self) -> str:
        """How the address of the gateway begins."""
        return "wss" if self.tls_cert else "ws"

    @property
    def lake_location(self) -> str:
        """Where the lake lies."""
        return self.lake_url or str(self.data_dir / "lake")

    @property
    def state_dir(self) -> Path:
        """Folder of what belongs to this machine: sink progress, locks; and of the state if `state_url` is empty."""
        return self.data_dir / "state"

    @property
    def state_location(self) -> str:
        """Where manifests, checkpoints and skips lie."""
        return self.state_url or str(self.state_dir)
