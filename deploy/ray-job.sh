#!/bin/sh
# Submit a run to a Ray cluster that is up, such as one of `ray up` or of `ray start`. All nodes have tlcli[ray] in the
# same versions; the node that runs the job, the head, sees the images.
#   RAY_API_SERVER_ADDRESS=http://HEAD:8265 deploy/ray-job.sh /data/photos --out /srv/tlcli/runs/photos
set -eu
exec ray job submit -- tlcli finetune "$@" --cluster auto
