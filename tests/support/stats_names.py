"""The names that the numbers of a text have, from Python and in the file of --stats-json."""

STATS_NAMES = [
    "queue_seconds",
    "prompt_tokens",
    "prompt_seconds",
    "generated_tokens",
    "generate_seconds",
    "time_to_first_token_seconds",
    "cached_tokens",
    "drafted_tokens",
    "accepted_tokens",
    "stop_reason",
    "peak_rss_bytes",
    "mapped_bytes",
    "resident_bytes",
    "threads",
    "isa",
    "experts",
]
