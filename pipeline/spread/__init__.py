"""`quantgate spread`: the stages of a recipe that the store lacks, run on a Ray cluster.

DVC's graph says what there is to run and in which order (pipeline/store/graph), the store what of
it was made already (`missing`). A job is one stage: the node gets the files that the stage depends
on from the store, runs the stage's own command, which puts the result there (`node`). `dvc repro`
then takes every result from the store, and remains what decides, records and locks.

    command   the loop: what is ready goes out, what came back makes more ready
    missing   which stages are ready, and under which keys
    orders    a stage as a job: the project's files, what it needs of a node
    cluster   in Ray's environment: starts or finds a cluster, hands jobs to it, and again
              elsewhere where a node died
    node      on a node: working copy, command, result
    cores     on a node: each job has cores of its own
    shown     the table on the terminal, or lines of JSON"""
