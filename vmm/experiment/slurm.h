// Carries an experiment out on a cluster, as a Slurm job array, by Slurm's ordinary commands: sbatch, squeue, scancel.
//
// A task runs groups of PlanRuns: what is to be compared runs on one node. Its results lie in DIR/tasks/N, and are
// gathered to DIR/results.jsonl, as if they had been run here. DIR is on a file system that all nodes share.
#ifndef QUIRE_VMM_EXPERIMENT_SLURM_H_
#define QUIRE_VMM_EXPERIMENT_SLURM_H_

#include <functional>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "vmm/experiment/experiment.h"
#include "vmm/host.h"
#include "vmm/terminal.h"

namespace quire {

struct SlurmOptions {
  std::string out;                          // DIR
  std::optional<std::string> options = {};  // of sbatch; others would share the nodes unless they say so
  absl::Duration poll = absl::Seconds(1);   // how often Slurm is asked
};

// Submits what has not been run yet, waits for its end, and gathers the results. Interrupted, it cancels the job; what
// has ended is gathered. Errors: FailedPrecondition, Slurm's commands are not there; Internal, sbatch failed, squeue
// has for a minute, or tasks ended without results; Cancelled; those of ResultsFile.
absl::Status RunOnSlurm(const Experiment& experiment, const SlurmOptions& options, std::ostream& out,
                        const std::function<Terminal()>& terminal);

// What a task does, on its node.
absl::Status RunSlurmTask(const Experiment& experiment, const std::string& out_directory, int task, const Host& host,
                          std::ostream& out, const std::function<Terminal()>& terminal);

// The script of a task; the words are quoted.
std::string TaskScript(const std::string& program, const Experiment& experiment, const std::string& out);

// "0-3,7" of {0, 1, 2, 3, 7}.
std::string ArrayOf(const std::vector<size_t>& tasks);

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_SLURM_H_
