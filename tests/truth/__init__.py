"""Ground truth: what sidetap recorded, request by request, against those who know better.

Real servers and clients do real requests; their logs, counts and bodies say what happened, and sidetap must have said
the same, once each. `scripts/truth` runs it; `cells.py` has the register of what is run, and how to add to it.

    process   children and ports                      wire      a client that says exactly what it sent and got
    servers   nginx, Python, Node, HAProxy, and       tools     curl, wrk and h2load
              their logs                              agent     sidetap, and what it recorded
    world     one cell's servers, agent and requests  shapes    what the clients do, by shape of traffic
    oracle    what must have been recorded            verdict   what was, compared
    cells     which combinations are run              report    the table, the JSON, the exit status
"""
