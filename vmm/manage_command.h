// `quire manage`.
#ifndef QUIRE_VMM_MANAGE_COMMAND_H_
#define QUIRE_VMM_MANAGE_COMMAND_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/command_line.h"

namespace quire {

// All but what is said of exit statuses.
std::string ManageHelp();

// Errors: those of the command line and of the policy's file, InvalidArgument; those of ManageDomains.
absl::Status ManageCommand(absl::Span<const absl::string_view> args, Console& console);

}  // namespace quire

#endif  // QUIRE_VMM_MANAGE_COMMAND_H_
