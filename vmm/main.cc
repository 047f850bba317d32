#include <unistd.h>

#include <iostream>
#include <vector>

#include "absl/strings/string_view.h"
#include "vmm/command_line.h"
#include "vmm/interrupt.h"

int main(int argc, char** argv) {
  const std::vector<absl::string_view> args(argv + (argc > 0 ? 1 : 0), argv + argc);
  quire::Console console = {.out = std::cout,
                            .err = std::cerr,
                            .out_terminal = [] { return quire::DetectTerminal(STDOUT_FILENO); },
                            .err_terminal = [] { return quire::DetectTerminal(STDERR_FILENO); },
                            .host = quire::RealHost()};
  const quire::ExitStatus status = quire::RunCommandLine(args, console);
  quire::DieOfCaughtInterrupt();
  return static_cast<int>(status);
}
