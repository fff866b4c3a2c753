"""A bundle: one folder with an artifact and all that speaks for it, signed as a whole.

    model files, README.md (the card)     at its root, so that the engines load the folder as it is
    quantgate/bundle.dsse.json            in-toto Statement over every other file, signed by a
                                          publisher
    quantgate/records/                    manifest, recipe, source, samples, texts, evaluations,
                                          verdict, benchmarks
    quantgate/statements.jsonl            provenance (SLSA), test result and benchmark as signed
                                          in-toto Statements
    quantgate/signoff.jsonl, policy.yaml  who decided what, and by which rules
    quantgate/serve.yaml                  the settings under which it was measured
    quantgate/bom.cdx.json                CycloneDX ML-BOM
    quantgate/report.html, report.md, environments/

assemble.py makes it, check.py believes none of it; layout.py is what both know.
"""
