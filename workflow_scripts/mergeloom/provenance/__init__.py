"""What an artifact was made from: code digests, records, traces."""
