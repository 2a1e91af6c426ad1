"""The metrics the fleet knows by name: unit, words for a page, and the names that devices use for them.

An unknown number keeps the name its device gave it; this table only adds words, units and one spelling.
"""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    name: str
    unit: str
    label: str
    aliases: tuple[str, ...] = ()


KNOWN: tuple[Metric, ...] = (
    Metric("battery_pct", "%", "Battery", ("battery", "batt", "battery_level", "battery_remaining", "soc")),
    Metric("voltage_v", "V", "Voltage", ("voltage", "battery_voltage", "vbat")),
    Metric("current_a", "A", "Current", ("current", "battery_current")),
    Metric("temp_c", "°C", "Temperature", ("temp", "temperature", "temperature_c", "cpu_temp")),
    Metric("rssi_dbm", "dBm", "Signal", ("rssi",)),
    Metric("snr_db", "dB", "Signal to noise", ("snr",)),
    Metric("vibration_mps2", "m/s²", "Vibration", ("vibration", "vibe")),
    Metric("cpu_pct", "%", "CPU", ("cpu", "cpu_percent", "cpu_usage")),
    Metric("ram_pct", "%", "Memory", ("ram", "mem", "memory", "mem_pct")),
    Metric("disk_pct", "%", "Disk", ("disk", "storage_pct")),
    Metric("rtt_ms", "ms", "Round trip", ("rtt",)),
    Metric("loss_pct", "%", "Packet loss", ("loss",)),
    Metric("lat_deg", "°", "Latitude", ("lat", "latitude")),
    Metric("lon_deg", "°", "Longitude", ("lon", "lng", "longitude")),
    Metric("alt_m", "m", "Altitude", ("alt", "altitude")),
    Metric("rel_alt_m", "m", "Height", ("relative_alt", "rel_alt", "height")),
    Metric("speed_mps", "m/s", "Speed", ("speed", "groundspeed", "gs")),
    Metric("climb_mps", "m/s", "Climb", ("climb", "vz")),
    Metric("heading_deg", "°", "Heading", ("heading", "hdg", "yaw")),
    Metric("satellites", "", "Satellites", ("sats", "satellites_visible", "nsat")),
    Metric("uptime_s", "s", "Uptime", ("uptime",)),
    Metric("load_pct", "%", "Autopilot load", ("load",)),
)

BY_NAME: dict[str, Metric] = {metric.name: metric for metric in KNOWN}
CANONICAL: dict[str, str] = {alias: metric.name for metric in KNOWN for alias in (metric.name, *metric.aliases)}
