"""Jobs: what a service accepts now and has done later, asked after until it is over.

`job` has `Job`, whichever service it is of; `looking` how it is asked after; `many` those of a batch; `calls` the
methods that `Client` inherits, and `waiting` those of `sync.Client`.
"""

from asyncllm.jobs.calls import JobCalls
from asyncllm.jobs.job import Job
from asyncllm.jobs.looking import WaitOptions
from asyncllm.jobs.many import JobBatch, JobResult
from asyncllm.jobs.waiting import WaitingJob, WaitingJobCalls

__all__ = ["Job", "JobBatch", "JobCalls", "JobResult", "WaitOptions", "WaitingJob", "WaitingJobCalls"]
