"""The one route table: what answers where, and who may ask.

Patterns stand after what is exact. `web.openapi` draws its document from the rows under /api/v1 and the three at the
end; the tests walk every row as every identity.
"""

from __future__ import annotations

from web import api, assets, feed, live, metrics, openapi, state
from web.pages import (
    account,
    attention,
    audit,
    authority,
    devices,
    domain,
    intake,
    journal,
    links,
    node,
    plan,
    policies,
    quarantine,
    site,
)
from web.policy import Entry, Policy, Talk

PUBLIC, VIEWER, OPERATOR, ADMIN = Policy.PUBLIC, Policy.VIEWER, Policy.OPERATOR, Policy.ADMIN

# Why a row does not answer `as_of`
_PROGRAM = "This is a part of the program, which has no past; ask without “as_of”."
_STREAM = "A stream tells what happens from now on; of the past ask the pages, or /api/v1/events."
_FILE = "This is a file of all that there is, its past with it; ask without “as_of”."
_COMING_IN = (
    "Who may come in is known of now; who was let in, when and by whom stands in the audit, which knows the past."
)
_MEASURED = (
    "What comes in is measured now, and the measure is not kept; the journal knows what was refused, claimed and lost."
)
_OPEN = (
    "What stands open is known of now; what was decided, when and by whom stands in the journal, which knows the past."
)
_EDIT = "What is edited is edited now; the page of the domain knows the past."
_PROOF = "What is checked is the whole log, its past with it; ask without “as_of”."
_HEALTH = "How the box itself is doing is known of now; ask without “as_of”."

TABLE: tuple[Entry, ...] = (
    Entry("GET", "/static/{name}", assets.static, PUBLIC, now=_PROGRAM),
    Entry("GET", "/static/vendor/{name}", assets.static, PUBLIC, now=_PROGRAM),
    Entry("GET", "/login", account.sign_in_page, PUBLIC, now=_COMING_IN),
    Entry("POST", "/login", account.sign_in, PUBLIC),
    Entry("POST", "/logout", account.sign_out, VIEWER),
    Entry("GET", "/setup/{secret}", account.set_up_page, PUBLIC, now=_COMING_IN),
    Entry("POST", "/setup/{secret}", account.set_up, PUBLIC),
    Entry("POST", "/scheme", account.scheme, PUBLIC),
    Entry("GET", "/", site.show, VIEWER, past=True),
    Entry("GET", "/attention", attention.show, VIEWER, past=True),
    Entry("POST", "/attention", attention.change, OPERATOR),
    Entry("GET", "/live", live.live, VIEWER, now=_STREAM),
    Entry("GET", "/nodes/{id}", node.show, VIEWER, past=True),
    Entry("POST", "/nodes/{id}/change", node.change, OPERATOR),
    Entry("POST", "/nodes/{id}/take", node.take, OPERATOR),
    Entry("POST", "/nodes/{id}/parked", authority.settle, OPERATOR),
    Entry("GET", "/nodes/{id}/authority", authority.show, VIEWER, past=True),
    Entry("POST", "/nodes/{id}/authority", authority.change, OPERATOR),
    Entry("GET", "/domains/{id}/authority", authority.show, VIEWER, past=True),
    Entry("POST", "/domains/{id}/authority", authority.change, OPERATOR),
    Entry("POST", "/nodes/{id}/move", node.move, OPERATOR),
    Entry("POST", "/nodes/{id}/claim", node.claim, OPERATOR),
    Entry("POST", "/nodes/{id}/claim-device", node.claim_device, OPERATOR),
    Entry("POST", "/nodes/{id}/release", node.release, OPERATOR),
    Entry("GET", "/policies", policies.show, VIEWER, past=True),
    Entry("POST", "/policies", policies.create, OPERATOR),
    Entry("GET", "/policies/{id}", policies.show_one, VIEWER, past=True),
    Entry("POST", "/policies/{id}", policies.change, OPERATOR),
    Entry("POST", "/policies/{id}/take", policies.take, OPERATOR),
    Entry("POST", "/domains", domain.create, OPERATOR),
    Entry("GET", "/domains/{id}", domain.show, VIEWER, past=True),
    Entry("POST", "/domains/{id}", domain.change, OPERATOR),
    Entry("POST", "/domains/{id}/take", domain.take, OPERATOR),
    Entry("GET", "/domains/{id}/edit", domain.edit_page, OPERATOR, now=_EDIT),
    Entry("POST", "/domains/{id}/edit", domain.edit, OPERATOR),
    Entry("GET", "/plan", plan.show, VIEWER, now=_OPEN),
    Entry("POST", "/plan/preview", plan.preview, OPERATOR),
    Entry("POST", "/plan/apply", plan.apply, OPERATOR),
    Entry("POST", "/plan/undo", plan.undo, OPERATOR),
    Entry("GET", "/plan/{id}", plan.show, VIEWER, now=_OPEN),
    Entry("GET", "/intake", intake.show, VIEWER, now=_MEASURED),
    Entry("POST", "/adopt", intake.adopt, OPERATOR),
    Entry("GET", "/quarantine", quarantine.show, VIEWER, past=True),
    Entry("POST", "/quarantine/{id}", quarantine.settle, OPERATOR),
    Entry("GET", "/links", links.show, VIEWER, past=True),
    Entry("GET", "/devices", devices.show, VIEWER, now=_COMING_IN),
    Entry("POST", "/devices/codes", devices.make_code, OPERATOR),
    Entry("POST", "/devices/codes/{id}/withdraw", devices.withdraw_code, OPERATOR),
    Entry("POST", "/devices/enrol", devices.enrol, OPERATOR),
    Entry("POST", "/devices/{id}/rotate", devices.rotate, OPERATOR),
    Entry("POST", "/devices/{id}/revoke", devices.revoke, OPERATOR),
    Entry("POST", "/links/join", links.join, ADMIN, links.LINK_FILE_BYTES_MAX, uploads=True),
    Entry("POST", "/links/bundle", links.read_bundle, OPERATOR, None, uploads=True),
    Entry("GET", "/links/{id}", links.show_one, VIEWER, past=True),
    Entry("POST", "/links/{id}", links.change, OPERATOR),
    Entry("POST", "/links/{id}/bundle", links.write_bundle, OPERATOR),
    Entry("GET", "/links/{id}/receipts/{number}", links.receipt, VIEWER, now=_FILE),
    Entry("GET", "/journal", journal.show, VIEWER, past=True),
    Entry("GET", "/journal/verify", journal.verify, VIEWER, now=_PROOF),
    Entry("GET", "/journal/export", journal.export, OPERATOR, now=_FILE),
    Entry("GET", "/audit", audit.show, ADMIN, past=True),
    Entry("GET", "/audit/export", audit.export, ADMIN, now=_FILE),
    Entry("GET", "/account", account.show, VIEWER, now=_COMING_IN),
    Entry("POST", "/account/password", account.change_password, VIEWER),
    Entry("POST", "/account/accounts", account.create_account, ADMIN),
    Entry("POST", "/account/accounts/change", account.change_account, ADMIN),
    Entry("POST", "/account/accounts/disable", account.disable_account, ADMIN),
    Entry("POST", "/account/glass", account.seal_glass, ADMIN),
    Entry("POST", "/account/tokens", account.create_token, ADMIN),
    Entry("POST", "/account/tokens/revoke", account.revoke_token, ADMIN),
    Entry("GET", "/api/v1/me", api.me, VIEWER, now=_COMING_IN),
    Entry("GET", "/api/v1/nodes", api.nodes, VIEWER, past=True),
    Entry("GET", "/api/v1/nodes/{id}", api.one_node, VIEWER, past=True),
    Entry("PATCH", "/api/v1/nodes/{id}", api.change, OPERATOR),
    Entry("POST", "/api/v1/nodes/{id}/move", api.move, OPERATOR),
    Entry("GET", "/api/v1/nodes/{id}/series", api.series, VIEWER, past=True),
    Entry("GET", "/api/v1/nodes/{id}/drift", api.node_drift, VIEWER, past=True),
    Entry("GET", "/api/v1/policies", api.policy_list, VIEWER, past=True),
    Entry("POST", "/api/v1/nodes/{id}/rpc", api.call, OPERATOR),
    Entry("POST", "/api/v1/nodes/{id}/claimed", api.claim_device, OPERATOR),
    Entry("POST", "/api/v1/policies", api.policy_create, OPERATOR),
    Entry("GET", "/api/v1/policies/{id}", api.one_policy, VIEWER, past=True),
    Entry("PATCH", "/api/v1/policies/{id}", api.policy_write, OPERATOR),
    Entry("POST", "/api/v1/policies/{id}/preview", api.policy_preview, OPERATOR),
    Entry("POST", "/api/v1/policies/{id}/take", api.policy_take, OPERATOR),
    Entry("GET", "/api/v1/domains", api.domain_list, VIEWER, past=True),
    Entry("POST", "/api/v1/domains", api.domain_create, OPERATOR),
    Entry("GET", "/api/v1/domains/{id}", api.one_domain, VIEWER, past=True),
    Entry("PATCH", "/api/v1/domains/{id}", api.domain_write, OPERATOR),
    Entry("POST", "/api/v1/domains/{id}/take", api.domain_take, OPERATOR),
    Entry("POST", "/api/v1/domains/{id}/edit", api.domain_edit, OPERATOR),
    Entry("GET", "/api/v1/events", api.events, VIEWER, past=True),
    Entry("GET", "/api/v1/events/feed", feed.feed, VIEWER, now=_STREAM),
    Entry("GET", "/api/v1/state/stream", state.stream, VIEWER, now=_STREAM),
    Entry("GET", "/api/v1/telemetry", api.telemetry, VIEWER, past=True),
    Entry("GET", "/api/v1/sources", api.sources, VIEWER, now=_MEASURED),
    Entry("POST", "/api/v1/adopt", api.adopt, OPERATOR),
    Entry("GET", "/api/v1/quarantine", api.quarantined, VIEWER, past=True),
    Entry("POST", "/api/v1/quarantine/{id}", api.settle, OPERATOR),
    Entry("GET", "/api/v1/links", api.links, VIEWER, past=True),
    Entry("GET", "/api/v1/devices", devices.device_list, VIEWER, now=_COMING_IN),
    Entry("POST", "/api/v1/devices", devices.device_enrol, OPERATOR),
    Entry("POST", "/api/v1/devices/{id}/rotate", devices.credential_rotate, OPERATOR),
    Entry("POST", "/api/v1/devices/{id}/revoke", devices.credential_revoke, OPERATOR),
    Entry("GET", "/api/v1/activation-codes", devices.code_list, VIEWER, now=_COMING_IN),
    Entry("POST", "/api/v1/activation-codes", devices.code_make, OPERATOR),
    Entry("DELETE", "/api/v1/activation-codes/{id}", devices.code_withdraw, OPERATOR),
    Entry("POST", "/api/v1/links/{id}", api.link_change, OPERATOR),
    Entry("POST", "/api/v1/nodes/{id}/take", api.take, OPERATOR),
    Entry("POST", "/api/v1/nodes/{id}/parked", api.settle_parked, OPERATOR),
    Entry("GET", "/api/v1/authority/{id}", api.authority, VIEWER, past=True),
    Entry("POST", "/api/v1/authority/{id}", api.grant, OPERATOR),
    Entry("POST", "/api/v1/authority/{id}/return", api.hand_back, OPERATOR),
    Entry("GET", "/api/v1/attention", attention.read, VIEWER, past=True),
    Entry("POST", "/api/v1/attention/{id}", attention.take_up, OPERATOR),
    Entry("GET", "/api/v1/plan", plan.read, VIEWER, now=_OPEN),
    Entry("POST", "/api/v1/plan/apply", plan.carry_out, OPERATOR),
    Entry("POST", "/api/v1/plan/undo", plan.take_back, OPERATOR),
    Entry("GET", "/api/v1/tokens", api.tokens, ADMIN, now=_COMING_IN),
    Entry("POST", "/api/v1/tokens", api.create_token, ADMIN),
    Entry("DELETE", "/api/v1/tokens", api.revoke_token, ADMIN),
    Entry("POST", "/api/v1/accounts", api.create_account, ADMIN),
    Entry("GET", "/api/v1/openapi.json", openapi.description, VIEWER, now=_PROGRAM),
    Entry("GET", "/metrics", metrics.metrics, VIEWER, now=_HEALTH),
    Entry("GET", "/healthz", api.alive, PUBLIC, now=_HEALTH),
    Entry("GET", "/readyz", api.ready, PUBLIC, now=_HEALTH),
)

# Websockets that both boxes have
TALKS: tuple[Talk, ...] = (Talk("/api/v1/state/socket", state.socket, VIEWER),)
