"""Results of stages by what they depend on: found in a folder or bucket, checked and put into
place, so that no second machine makes them again.

`QUANTGATE_STORE` says where it is; without it nothing here runs. DVC says what a stage depends on
and what it makes (`graph`), a hash of that is the key (`inputs`), and under the key lie a record
and, by their own SHA-256, the files (`results`). `kept` is what the stages' commands call.

What lies there is believed nothing that its hash does not say, and nothing is unpickled. But a hash
is no signature: who can write into the store can write a result that was never measured, as who can
write into artifacts/ can. Only measuring again shows that (`quantgate signoff approve
--remeasure`)."""
