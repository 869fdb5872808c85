"""What a candidate must prove before it may shadow the champion: G1 to G11."""
