"""`shamon doctor`: whether a host is fit for a coalition. Readers at the edge, facts, and checks that judge them."""
