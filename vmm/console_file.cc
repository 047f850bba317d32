#include "vmm/console_file.h"

#include <fcntl.h>

#include <cerrno>
#include <cstring>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "vmm/files.h"

namespace quire {

absl::StatusOr<std::unique_ptr<ConsoleFile>> ConsoleFile::Create(const std::string& path, WhereThereIsOne how) {
  const int empty = how == WhereThereIsOne::kReplace ? O_TRUNC : 0;
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | empty | O_APPEND | O_CLOEXEC, 0666));
  if (!fd.valid()) {
    return absl::InvalidArgumentError(absl::StrCat("--console=", path, " cannot be written to (", std::strerror(errno),
                                                   "): write the path of a file in a directory of yours"));
  }
  return absl::WrapUnique(new ConsoleFile(std::move(fd)));
}

void ConsoleFile::Write(absl::string_view bytes) { (void)WriteAll(fd_.get(), bytes); }

}  // namespace quire
