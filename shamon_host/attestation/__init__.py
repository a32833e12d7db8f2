"""Attester and Verifier: TPM structures, logs, Reference Values, appraisal."""
