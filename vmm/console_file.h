// A file that gets what a guest writes to its console.
#ifndef QUIRE_VMM_CONSOLE_FILE_H_
#define QUIRE_VMM_CONSOLE_FILE_H_

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"
#include "vmm/pc_options.h"

namespace quire {

// Thread safe.
class ConsoleFile {
 public:
  // Errors: InvalidArgument.
  static absl::StatusOr<std::unique_ptr<ConsoleFile>> Create(const std::string& path, WhereThereIsOne how);

  // As it is, at once. What the file cannot take, its disk being full say, is lost: a guest is not stopped for that.
  void Write(absl::string_view bytes);

 private:
  explicit ConsoleFile(UniqueFd fd) : fd_(std::move(fd)) {}

  const UniqueFd fd_;
};

}  // namespace quire

#endif  // QUIRE_VMM_CONSOLE_FILE_H_
