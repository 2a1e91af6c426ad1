"""The one route table: what answers where, and who may ask.

Patterns stand after what is exact. `web.openapi` draws its document from the rows under /api/v1 and the three at the
end; the tests walk every row as every identity.
"""

from __future__ import annotations

from web import api, assets, feed, live, metrics, openapi
from web.pages import account, intake, journal, links, node, quarantine, site
from web.policy import Entry, Policy

PUBLIC, VIEWER, OPERATOR, ADMIN = Policy.PUBLIC, Policy.VIEWER, Policy.OPERATOR, Policy.ADMIN

TABLE: tuple[Entry, ...] = (
    Entry("GET", "/static/{name}", assets.static, PUBLIC),
    Entry("GET", "/static/vendor/{name}", assets.static, PUBLIC),
    Entry("GET", "/login", account.sign_in_page, PUBLIC),
    Entry("POST", "/login", account.sign_in, PUBLIC),
    Entry("POST", "/logout", account.sign_out, VIEWER),
    Entry("GET", "/setup/{secret}", account.set_up_page, PUBLIC),
    Entry("POST", "/setup/{secret}", account.set_up, PUBLIC),
    Entry("POST", "/scheme", account.scheme, PUBLIC),
    Entry("GET", "/", site.show, VIEWER),
    Entry("GET", "/live", live.live, VIEWER),
    Entry("GET", "/nodes/{id}", node.show, VIEWER),
    Entry("POST", "/nodes/{id}/change", node.change, OPERATOR),
    Entry("POST", "/nodes/{id}/take", node.take, OPERATOR),
    Entry("POST", "/nodes/{id}/move", node.move, OPERATOR),
    Entry("POST", "/nodes/{id}/claim", node.claim, OPERATOR),
    Entry("POST", "/nodes/{id}/release", node.release, OPERATOR),
    Entry("GET", "/intake", intake.show, VIEWER),
    Entry("POST", "/adopt", intake.adopt, OPERATOR),
    Entry("GET", "/quarantine", quarantine.show, VIEWER),
    Entry("POST", "/quarantine/{id}", quarantine.settle, OPERATOR),
    Entry("GET", "/links", links.show, VIEWER),
    Entry("POST", "/links/join", links.join, ADMIN, links.LINK_FILE_BYTES_MAX, uploads=True),
    Entry("POST", "/links/bundle", links.read_bundle, OPERATOR, None, uploads=True),
    Entry("GET", "/links/{id}", links.show_one, VIEWER),
    Entry("POST", "/links/{id}", links.change, OPERATOR),
    Entry("POST", "/links/{id}/bundle", links.write_bundle, OPERATOR),
    Entry("GET", "/links/{id}/receipts/{number}", links.receipt, VIEWER),
    Entry("GET", "/journal", journal.show, VIEWER),
    Entry("GET", "/journal/verify", journal.verify, VIEWER),
    Entry("GET", "/journal/export", journal.export, OPERATOR),
    Entry("GET", "/account", account.show, VIEWER),
    Entry("POST", "/account/password", account.change_password, VIEWER),
    Entry("POST", "/account/accounts", account.create_account, ADMIN),
    Entry("POST", "/account/accounts/disable", account.disable_account, ADMIN),
    Entry("POST", "/account/tokens", account.create_token, ADMIN),
    Entry("POST", "/account/tokens/revoke", account.revoke_token, ADMIN),
    Entry("GET", "/api/v1/me", api.me, VIEWER),
    Entry("GET", "/api/v1/nodes", api.nodes, VIEWER),
    Entry("GET", "/api/v1/nodes/{id}", api.one_node, VIEWER),
    Entry("PATCH", "/api/v1/nodes/{id}", api.change, OPERATOR),
    Entry("POST", "/api/v1/nodes/{id}/move", api.move, OPERATOR),
    Entry("GET", "/api/v1/nodes/{id}/series", api.series, VIEWER),
    Entry("GET", "/api/v1/events", api.events, VIEWER),
    Entry("GET", "/api/v1/events/feed", feed.feed, VIEWER),
    Entry("GET", "/api/v1/telemetry", api.telemetry, VIEWER),
    Entry("GET", "/api/v1/sources", api.sources, VIEWER),
    Entry("POST", "/api/v1/adopt", api.adopt, OPERATOR),
    Entry("GET", "/api/v1/quarantine", api.quarantined, VIEWER),
    Entry("POST", "/api/v1/quarantine/{id}", api.settle, OPERATOR),
    Entry("GET", "/api/v1/links", api.links, VIEWER),
    Entry("POST", "/api/v1/links/{id}", api.link_change, OPERATOR),
    Entry("POST", "/api/v1/nodes/{id}/take", api.take, OPERATOR),
    Entry("GET", "/api/v1/tokens", api.tokens, ADMIN),
    Entry("POST", "/api/v1/tokens", api.create_token, ADMIN),
    Entry("DELETE", "/api/v1/tokens", api.revoke_token, ADMIN),
    Entry("POST", "/api/v1/accounts", api.create_account, ADMIN),
    Entry("GET", "/api/v1/openapi.json", openapi.description, VIEWER),
    Entry("GET", "/metrics", metrics.metrics, VIEWER),
    Entry("GET", "/healthz", api.alive, PUBLIC),
    Entry("GET", "/readyz", api.ready, PUBLIC),
)
