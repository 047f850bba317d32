// The commands of the program.
#ifndef QUIRE_VMM_COMMAND_LINE_H_
#define QUIRE_VMM_COMMAND_LINE_H_

#include <functional>
#include <ostream>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/exit_status.h"
#include "vmm/host.h"
#include "vmm/terminal.h"

namespace quire {

// What a command may touch of the world, beside files and guests.
struct Console {
  std::ostream& out;
  std::ostream& err;
  std::function<Terminal()> out_terminal;
  std::function<Terminal()> err_terminal;
  const Host& host;
};

// Runs the command that `args`, without the program's name, ask for. What goes wrong is one sentence on console.err.
// Once in a process: flags are global.
ExitStatus RunCommandLine(absl::Span<const absl::string_view> args, Console& console);

}  // namespace quire

#endif  // QUIRE_VMM_COMMAND_LINE_H_
