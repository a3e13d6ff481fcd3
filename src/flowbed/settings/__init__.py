"""Settings of one project: the only reader of `flowbed.toml` and of the environment; yields plain values."""

from flowbed.settings.aws import (
    Deployment,
    deployment,
    function_folder,
    resolve_secrets,
    sandbox,
    secrets_named,
)
from flowbed.settings.environment import (
    CommitRules,
    chroma_database,
    chroma_token,
    commit_rules,
    ledger_url,
    provider_options,
    share_counts,
    shared_counts,
    snapshot_mode,
    snapshot_store,
    source_token,
    store_options,
    traces_wanted,
)
from flowbed.settings.file import BEGINNING, add_source, remove_source
from flowbed.settings.model_cache import model_cache
from flowbed.settings.project import FILE, PASSED, Settings, SourceSettings, checked_name, read_settings
from flowbed.settings.serving import fallback, serving

__all__ = [
    "BEGINNING",
    "FILE",
    "PASSED",
    "CommitRules",
    "Deployment",
    "Settings",
    "SourceSettings",
    "add_source",
    "checked_name",
    "chroma_database",
    "chroma_token",
    "commit_rules",
    "deployment",
    "fallback",
    "function_folder",
    "ledger_url",
    "model_cache",
    "provider_options",
    "read_settings",
    "remove_source",
    "resolve_secrets",
    "sandbox",
    "secrets_named",
    "serving",
    "share_counts",
    "shared_counts",
    "snapshot_mode",
    "snapshot_store",
    "source_token",
    "store_options",
    "traces_wanted",
]
