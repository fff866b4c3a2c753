"""Files that run a deployment elsewhere: `quantgate deploy-files deploy.yaml --to KIND --out
FOLDER` (docs/deploy.md).

    plan         what is to run: deploy.yaml, and what each verified bundle says of itself
    names, size  names that every target takes; memory and cores, from what was measured
    settings     the gateway's own deploy.yaml, as it is read there
    commands     what the files start
    text         YAML and systemd units from plain values
    image        the Dockerfile
    compose, kubernetes (pods, gateway_pod, scaling), systemd, litellm, monitoring (dashboard,
                 alerts.yaml): one file a target
    write        the table of targets; all of one in a folder, or nothing
"""
