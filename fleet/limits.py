"""Every bound of the system in one place. Noun first, unit last."""

from __future__ import annotations

MS = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

# Intake
record_bytes_max = (
    65_536  # a longer message is cut here and marked (RFC 5424 6.1 asks for 2048, RFC 5426 3.2 for the IP maximum)
)
gate_records_max = 200_000
gate_bytes_max = 64 * 1024 * 1024
batch_records_max = 8_192
sources_max = 50_000  # beyond it a record counts for its bare address
name_chars_max = 128
http_body_bytes_max = 8 * 1024 * 1024
http_inflated_bytes_max = 32 * 1024 * 1024
http_records_max = 10_000
json_depth_max = 32
metrics_per_record_max = 64
metrics_per_node_max = 256  # beyond it a node's new names are not kept as values
tcp_connections_max = 1_024
tcp_idle_seconds_max = 600
tls_handshakes_max = 256  # beyond it the one that began first is cut off
tls_handshake_seconds_max = 10
devices_max = 20_000
credentials_per_device_max = 8  # that count at once
codes_max = 1_000
code_uses_max = 10_000
doorkeeper_known_max = 20_000  # credentials that were looked up; beyond it they are looked up again
doorkeeper_refused_max = 10_000  # what was refused, likewise
buckets_max = 20_000  # beyond it the one that was used longest ago is full again

# A device's clock is believed between these (2020-01-01 and 2080-01-01), and only so far ahead of ours
claimed_ns_min = 1_577_836_800 * SECOND
claimed_ns_max = 3_471_292_800 * SECOND

# Journal
event_bytes_max = 262_144
subject_chars_max = 512
block_events_max = 10_000
block_bytes_max = 16 * 1024 * 1024

# Store
query_seconds_max = 2.0
frame_bytes_max = 8 * 1024 * 1024  # of raw records in one frame
frame_inflated_bytes_max = 128 * 1024 * 1024
partition_ns_max = HOUR
partition_bytes_max = 128 * 1024 * 1024
segment_frame_records_max = 4_096
quarantine_items_max = 10_000
quarantine_bytes_max = 16 * 1024 * 1024
quarantine_samples_max = 100  # of one reason in one run of the process

# Pages and API
page_items_max = 500
page_items_default = 50
