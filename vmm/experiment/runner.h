// Carries an experiment out on this machine.
#ifndef QUIRE_VMM_EXPERIMENT_RUNNER_H_
#define QUIRE_VMM_EXPERIMENT_RUNNER_H_

#include <functional>
#include <optional>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "vmm/experiment/experiment.h"
#include "vmm/host.h"
#include "vmm/terminal.h"

namespace quire {

struct RunnerOptions {
  std::string out;                  // the directory of the results
  std::optional<size_t> task = {};  // only the groups of PlanRuns that are this task's
};

// Runs what has not been run yet, and shows how it goes on. The host is put back as it was, also if this process is
// killed. From a process without other threads. Errors: those of ResultsFile; Cancelled, the user interrupted it: what
// has been run stays; FailedPrecondition, the host lacks what the experiment needs.
absl::Status RunExperiment(const Experiment& experiment, const RunnerOptions& options, const Host& host,
                           std::ostream& out, const std::function<Terminal()>& terminal);

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_RUNNER_H_
