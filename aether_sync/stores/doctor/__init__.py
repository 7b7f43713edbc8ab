"""What is well with a store on a server, what is not, and what to do."""
