"""A bucket as its users see it.

s3.py make ENDPOINT BUCKET            makes the bucket
s3.py fetch ENDPOINT BUCKET FOLDER    gets every object into FOLDER, under its key
s3.py query FOLDER                    asks DuckDB what is in the batches there: "COUNT HIGHEST_STATUS DAYS HOSTS"
"""

import pathlib
import sys


def client(endpoint):
    import boto3

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )


def fetch(endpoint, bucket, folder):
    s3 = client(endpoint)
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", []):
            path = pathlib.Path(folder, found["Key"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(s3.get_object(Bucket=bucket, Key=found["Key"])["Body"].read())


def query(folder):
    import duckdb

    rows = duckdb.sql(
        "SELECT count(*), max(response.status), count(DISTINCT dt), count(DISTINCT host)"
        f" FROM read_ndjson('{folder}/dt=*/hour=*/host=*/*.ndjson.*', hive_partitioning = true, union_by_name = true, maximum_depth = 2)"
    ).fetchall()
    print(*rows[0])


match sys.argv[1:]:
    case ["make", endpoint, bucket]:
        client(endpoint).create_bucket(Bucket=bucket)
    case ["fetch", endpoint, bucket, folder]:
        fetch(endpoint, bucket, folder)
    case ["query", folder]:
        query(folder)
    case _:
        sys.exit(__doc__)
