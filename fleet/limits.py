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
lines_body_lines_max = 200_000  # of line protocol in one body
lines_run_bytes_max = 4_096  # lines of one sender are one record, up to this; a longer one is one by itself
json_depth_max = 32
metrics_per_record_max = 64
mids_max = 65_536  # ids of messages that are remembered, to know a repeat
metrics_per_node_max = 256  # beyond it a node's new names are not kept as values
bridge_messages_max = 16_384  # of one bridge that are remembered, to know what its broker repeats
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

# What devices ask and are asked
gateway_devices_max = 1_000  # that one message names, or that one connection stands for
gateway_nodes_max = 1_000  # that one gateway brings by itself; who comes beyond them is a source that a person adopts
newcomers_max = 10_000  # devices behind gateways that are about to become nodes; the same
away_seats_max = 20_000  # of devices that are to come back; one beyond asks anew what is wanted of it
attributes_per_node_max = 128
attribute_bytes_max = 1_024  # of one value, as JSON
attribute_requests_max = 10_000  # that wait for an answer
calls_waiting_max = 1_000  # of devices, under way at once
call_seconds_max = 60
long_polls_max = 500
provisions_waiting_max = 64
claims_open_max = 10_000
claim_seconds_max = 86_400

# MQTT. A session lives in memory: what is bounded for each is bounded for all by the number of sessions
mqtt_receive_max = 1_000  # messages of QoS 1 and 2 at once; clients of MQTT 5 are told, and cut off beyond
mqtt_unacked_max = 4_096  # beyond it a connection is not read; those of 3.1.1 cannot be told otherwise
mqtt_aliases_max = 32
mqtt_topic_chars_max = 512
mqtt_topics_max = 4_096  # names that are remembered as judged, over all connections; when full: begun anew
mqtt_client_id_chars_max = 256
mqtt_subscriptions_max = 100  # of a session; a further one is refused in the SUBACK
mqtt_outgoing_max = 100  # unacknowledged messages to a device; `Line.send` says False beyond
mqtt_kept_each_bytes_max = 256 * 1024  # for a device that is away; beyond it, or the count above, the oldest goes
mqtt_kept_bytes_max = 16 * 1024 * 1024  # for all that are away; a further message is not kept
mqtt_sessions_max = 10_000  # without a connection; beyond it the one longest alone goes
mqtt_retained_each_max = 100  # of one device
mqtt_retained_max = 10_000
mqtt_retained_bytes_max = 16 * 1024 * 1024  # beyond these a message is stored as any other, and not retained
mqtt_partial_bytes_max = 64 * 1024 * 1024  # of packets not all there, over all connections; a further one is cut off
mqtt_unread_bytes_max = 1024 * 1024  # written to a device that does not read; beyond it the device is cut off
mqtt_unread_seconds_max = 30
mqtt_wait_seconds_max = 60  # for a device's bucket; a message that would wait longer ends the connection

# Uploads and the control line
upload_bytes_max = 256 * 1024 * 1024
upload_inflated_bytes_max = 1024 * 1024 * 1024
upload_records_max = 1_000_000
upload_chunk_bytes_min = 16 * 1024
upload_chunk_bytes_max = 4 * 1024 * 1024
upload_window_bytes_max = 16 * 1024 * 1024
uploads_max = 256
uploads_per_device_max = 4
upload_silent_ns_max = 10 * MINUTE
upload_idle_ns_max = 24 * HOUR
streams_per_device_max = 1_000
stream_ranges_max = 1_024
control_lines_max = 1_000
control_asks_max = 8
control_message_bytes_max = 65_536

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
fleet_query_seconds_max = 10.0  # how a whole fleet stood at a moment; the answer is kept for whoever asks next
telemetry_page_bytes_max = 32 * 1024 * 1024  # of raw records in one answer
frame_bytes_max = 8 * 1024 * 1024  # of raw records in one frame
frame_inflated_bytes_max = 128 * 1024 * 1024
partition_ns_max = HOUR
partition_bytes_max = 128 * 1024 * 1024
segment_frame_records_max = 4_096
quarantine_items_max = 10_000
quarantine_bytes_max = 16 * 1024 * 1024
quarantine_samples_max = 100  # of one reason in one run of the process

# Tenants of one hub, each with a folder, threads and databases of its own
tenants_max = 32

# Pages and API
page_items_max = 500
page_items_default = 50
metrics_nodes_max = 2_000  # that /metrics has figures for one by one
stream_nodes_max = 1_000  # that one reader of the latest state is told of
