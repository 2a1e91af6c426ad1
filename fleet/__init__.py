"""The domain of Skerry, pure: no I/O, no clock, no randomness, no framework.

One word per concept, the field's standard word:

appliance   the box at a site; *hub*, the same box on the mainland
node        anything the fleet keeps an eye on: a drone, a laptop, a sensor, a relay
source      where a raw record came from: intake, address and, where it names itself, a device name
record      one raw message as received, kept byte for byte
frame       a zstd frame of JSON Lines holding consecutive records
segment     sealed frames in one file, named by its SHA-256
reading     what one record says, in the fleet's words and units
snapshot    the latest that is known of one node
turn        a change of a node's state; every turn is an event
event       a fact in the past tense, numbered, hashed and signed
block       the events of one commit, with one hash and one signature
log         all blocks of one (writer, epoch); the journal holds logs
projection  a fold over events that answers one question
claim       a node's hold on a source
policy      bundle: what many nodes should look like, said once
domain      nodes that are decided on together
drift       what is found otherwise than it is wanted; worked out at each look, never stored
quarantine  where bad input waits for a person, with its reason
"""
