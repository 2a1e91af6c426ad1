-- Made by `python -m store.tables`; change the classes there, not this file.
CREATE TABLE account (
	name VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	role VARCHAR NOT NULL, 
	password_hash VARCHAR NOT NULL, 
	created_ns INTEGER NOT NULL, 
	disabled BOOLEAN NOT NULL, 
	origin VARCHAR, 
	sites VARCHAR, 
	changed_by VARCHAR, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID;
CREATE TABLE activation_code (
	id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	secret_hash BLOB NOT NULL, 
	name VARCHAR NOT NULL, 
	node_kind VARCHAR NOT NULL, 
	gateway BOOLEAN NOT NULL, 
	uses INTEGER NOT NULL, 
	used INTEGER NOT NULL, 
	made_ns INTEGER NOT NULL, 
	made_by VARCHAR NOT NULL, 
	expires_ns INTEGER NOT NULL, 
	revoked_ns INTEGER, 
	PRIMARY KEY (id), 
	UNIQUE (secret_hash)
)
 WITHOUT ROWID;
CREATE TABLE custody (
	site VARCHAR NOT NULL, 
	sha256 BLOB NOT NULL, 
	first_id INTEGER NOT NULL, 
	last_id INTEGER NOT NULL, 
	records INTEGER NOT NULL, 
	bytes_stored INTEGER NOT NULL, 
	from_ns INTEGER NOT NULL, 
	to_ns INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	at_ns INTEGER NOT NULL, 
	PRIMARY KEY (site, sha256)
)
 WITHOUT ROWID;
CREATE TABLE delivery (
	upload VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	after_id INTEGER NOT NULL, 
	began_ns INTEGER NOT NULL, 
	PRIMARY KEY (upload)
)
 WITHOUT ROWID;
CREATE TABLE document (
	tenant VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	id VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	heads BLOB NOT NULL, 
	changes INTEGER NOT NULL, 
	saved BLOB NOT NULL, 
	disputed BOOLEAN, 
	PRIMARY KEY (tenant, kind, id, generation)
);
CREATE INDEX document_disputed ON document (tenant, disputed);
CREATE TABLE document_double (
	tenant VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	id VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	hash BLOB NOT NULL, 
	PRIMARY KEY (tenant, kind, id, generation, hash)
)
 WITHOUT ROWID;
CREATE TABLE document_waiting (
	tenant VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	id VARCHAR NOT NULL, 
	generation INTEGER NOT NULL, 
	hash BLOB NOT NULL, 
	raw BLOB NOT NULL, 
	since_ns INTEGER NOT NULL, 
	PRIMARY KEY (tenant, kind, id, generation, hash)
)
 WITHOUT ROWID;
CREATE TABLE invitation (
	name VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	secret_hash BLOB NOT NULL, 
	writer VARCHAR NOT NULL, 
	made_ns INTEGER NOT NULL, 
	link VARCHAR NOT NULL, 
	password VARCHAR NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID;
CREATE TABLE log (
	id INTEGER NOT NULL, 
	tenant VARCHAR NOT NULL, 
	writer VARCHAR NOT NULL, 
	epoch INTEGER NOT NULL, 
	public_key BLOB NOT NULL, 
	started_ns INTEGER NOT NULL, 
	PRIMARY KEY (id)
);
CREATE UNIQUE INDEX log_identity ON log (tenant, writer, epoch);
CREATE TABLE mention (
	subject VARCHAR NOT NULL, 
	first_position INTEGER NOT NULL, 
	last_position INTEGER NOT NULL, 
	PRIMARY KEY (subject, first_position)
)
 WITHOUT ROWID;
CREATE TABLE meta (
	"key" VARCHAR NOT NULL, 
	value VARCHAR NOT NULL, 
	PRIMARY KEY ("key")
)
 WITHOUT ROWID;
CREATE TABLE node (
	id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	document BLOB NOT NULL, 
	PRIMARY KEY (id)
);
CREATE INDEX ix_node_tenant ON node (tenant);
CREATE TABLE peer (
	writer VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	public_key BLOB NOT NULL, 
	sealing_key BLOB NOT NULL, 
	fence INTEGER NOT NULL, 
	token BLOB NOT NULL, 
	former BLOB NOT NULL, 
	log_writer VARCHAR NOT NULL, 
	log_epoch INTEGER NOT NULL, 
	quarantine VARCHAR NOT NULL, 
	since_ns INTEGER NOT NULL, 
	seen_ns INTEGER NOT NULL, 
	told BLOB NOT NULL, 
	PRIMARY KEY (writer)
)
 WITHOUT ROWID;
CREATE TABLE present (
	node_id VARCHAR NOT NULL, 
	site VARCHAR NOT NULL, 
	told_ns INTEGER NOT NULL, 
	received_ns INTEGER NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (node_id, site)
)
 WITHOUT ROWID;
CREATE TABLE quarantine (
	id INTEGER NOT NULL, 
	tenant VARCHAR NOT NULL, 
	at_ns INTEGER NOT NULL, 
	intake VARCHAR NOT NULL, 
	source VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	raw BLOB NOT NULL, 
	times INTEGER NOT NULL, 
	settled_ns INTEGER, 
	decision VARCHAR, 
	first_ns INTEGER, 
	PRIMARY KEY (id)
);
CREATE INDEX quarantine_same ON quarantine (tenant, intake, source, reason, raw);
CREATE TABLE receipt (
	site VARCHAR NOT NULL, 
	number INTEGER NOT NULL, 
	content BLOB NOT NULL, 
	hub_signature BLOB NOT NULL, 
	site_signature BLOB NOT NULL, 
	at_ns INTEGER NOT NULL, 
	PRIMARY KEY (site, number)
)
 WITHOUT ROWID;
CREATE TABLE segment (
	first_id INTEGER NOT NULL, 
	last_id INTEGER NOT NULL, 
	sha256 BLOB NOT NULL, 
	records INTEGER NOT NULL, 
	from_ns INTEGER NOT NULL, 
	to_ns INTEGER NOT NULL, 
	bytes_stored INTEGER NOT NULL, 
	sealed_ns INTEGER NOT NULL, 
	dropped_ns INTEGER, 
	PRIMARY KEY (first_id)
);
CREATE TABLE snapshot (
	node_id VARCHAR NOT NULL, 
	body BLOB NOT NULL, 
	PRIMARY KEY (node_id)
)
 WITHOUT ROWID;
CREATE TABLE stream (
	tenant VARCHAR NOT NULL, 
	device VARCHAR NOT NULL, 
	stream VARCHAR NOT NULL, 
	floor INTEGER NOT NULL, 
	held BLOB NOT NULL, 
	told_ns INTEGER NOT NULL, 
	PRIMARY KEY (tenant, device, stream)
)
 WITHOUT ROWID;
CREATE TABLE token (
	secret_hash BLOB NOT NULL, 
	tenant VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	role VARCHAR NOT NULL, 
	created_ns INTEGER NOT NULL, 
	revoked_ns INTEGER, 
	PRIMARY KEY (secret_hash)
)
 WITHOUT ROWID;
CREATE TABLE "view" (
	name VARCHAR NOT NULL, 
	version INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	state BLOB NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID;
CREATE TABLE block (
	log_id INTEGER NOT NULL, 
	first_seq INTEGER NOT NULL, 
	last_seq INTEGER NOT NULL, 
	previous BLOB NOT NULL, 
	hash BLOB NOT NULL, 
	signature BLOB NOT NULL, 
	PRIMARY KEY (log_id, first_seq), 
	FOREIGN KEY(log_id) REFERENCES log (id)
)
 WITHOUT ROWID;
CREATE TABLE branch (
	log_id INTEGER NOT NULL, 
	first_seq INTEGER NOT NULL, 
	hash BLOB NOT NULL, 
	last_seq INTEGER NOT NULL, 
	raw BLOB NOT NULL, 
	at_ns INTEGER NOT NULL, 
	PRIMARY KEY (log_id, first_seq, hash), 
	FOREIGN KEY(log_id) REFERENCES log (id)
)
 WITHOUT ROWID;
CREATE TABLE device (
	node_id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	gateway BOOLEAN NOT NULL, 
	enrolled_ns INTEGER NOT NULL, 
	enrolled_by VARCHAR NOT NULL, 
	PRIMARY KEY (node_id), 
	FOREIGN KEY(node_id) REFERENCES node (id)
)
 WITHOUT ROWID;
CREATE TABLE event (
	position INTEGER NOT NULL, 
	log_id INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	kind VARCHAR NOT NULL, 
	subject VARCHAR NOT NULL, 
	wall_ns INTEGER NOT NULL, 
	raw BLOB NOT NULL, 
	PRIMARY KEY (position), 
	FOREIGN KEY(log_id) REFERENCES log (id)
);
CREATE UNIQUE INDEX event_seq ON event (log_id, seq);
CREATE TABLE segment_frame (
	first_id INTEGER NOT NULL, 
	last_id INTEGER NOT NULL, 
	segment_id INTEGER NOT NULL, 
	"offset" INTEGER NOT NULL, 
	length INTEGER NOT NULL, 
	records INTEGER NOT NULL, 
	from_ns INTEGER NOT NULL, 
	to_ns INTEGER NOT NULL, 
	sources BLOB NOT NULL, 
	PRIMARY KEY (first_id), 
	FOREIGN KEY(segment_id) REFERENCES segment (first_id)
);
CREATE INDEX ix_segment_frame_segment_id ON segment_frame (segment_id);
CREATE TABLE session (
	secret_hash BLOB NOT NULL, 
	account VARCHAR NOT NULL, 
	created_ns INTEGER NOT NULL, 
	expires_ns INTEGER NOT NULL, 
	address VARCHAR NOT NULL, 
	PRIMARY KEY (secret_hash), 
	FOREIGN KEY(account) REFERENCES account (name)
)
 WITHOUT ROWID;
CREATE INDEX ix_session_account ON session (account);
CREATE TABLE source (
	"key" VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	node_id VARCHAR, 
	first_ns INTEGER NOT NULL, 
	last_ns INTEGER NOT NULL, 
	records INTEGER NOT NULL, 
	last_record INTEGER NOT NULL, 
	sample BLOB NOT NULL, 
	PRIMARY KEY ("key"), 
	FOREIGN KEY(node_id) REFERENCES node (id)
)
 WITHOUT ROWID;
CREATE TABLE credential (
	id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	node_id VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	lookup BLOB NOT NULL, 
	proof VARCHAR NOT NULL, 
	label VARCHAR NOT NULL, 
	made_ns INTEGER NOT NULL, 
	made_by VARCHAR NOT NULL, 
	expires_ns INTEGER, 
	revoked_ns INTEGER, 
	used_ns INTEGER, 
	used_from VARCHAR NOT NULL, 
	former VARCHAR NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(node_id) REFERENCES device (node_id)
)
 WITHOUT ROWID;
CREATE INDEX credential_lookup ON credential (kind, lookup);
CREATE INDEX ix_credential_node_id ON credential (node_id);
