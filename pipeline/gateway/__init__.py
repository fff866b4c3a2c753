"""One OpenAI endpoint over the servers of approved artifacts: `quantgate gateway deploy.yaml`
(docs/gateway.md)."""
