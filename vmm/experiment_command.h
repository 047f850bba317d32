// `quire experiment`.
#ifndef QUIRE_VMM_EXPERIMENT_COMMAND_H_
#define QUIRE_VMM_EXPERIMENT_COMMAND_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/command_line.h"

namespace quire {

// All but what is said of exit statuses.
std::string ExperimentHelp();

// Errors: those of the command line and of the experiment's file, InvalidArgument; those of RunExperiment.
absl::Status ExperimentCommand(absl::Span<const absl::string_view> args, Console& console);

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_COMMAND_H_
