#include "vmm/bench/host_settings.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/unique_fd.h"

namespace quire {

absl::StatusOr<std::string> ReadSetting(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char text[4096];
  const ssize_t length = fd.valid() ? read(fd.get(), text, sizeof text) : -1;
  if (length < 0) return absl::ErrnoToStatus(errno, absl::StrCat("read ", path));
  return std::string(absl::StripSuffix(absl::string_view(text, static_cast<size_t>(length)), "\n"));
}

absl::Status WriteSetting(const std::string& path, absl::string_view value) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.valid() && write(fd.get(), value.data(), value.size()) == static_cast<ssize_t>(value.size())) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("write ", value, " to ", path));
}

std::string ChosenOf(absl::string_view text) {
  const size_t open = text.find('[');
  const size_t close = text.find(']', open);
  if (open == absl::string_view::npos || close == absl::string_view::npos) return std::string(text);
  return std::string(text.substr(open + 1, close - open - 1));
}

absl::Status HostSettings::Change(const std::string& path, absl::string_view value) {
  const absl::StatusOr<std::string> old = ReadSetting(path);
  if (!old.ok()) return old.status();
  if (ChosenOf(*old) == value) return absl::OkStatus();
  if (absl::Status status = WriteSetting(path, value); !status.ok()) return status;
  AtEnd([path, before = ChosenOf(*old)] {
    if (absl::Status status = WriteSetting(path, before); !status.ok()) {
      std::cerr << "quire: a setting of this host could not be put back: " << status.message() << std::endl;
    }
  });
  return absl::OkStatus();
}

void HostSettings::PutBack() {
  while (!undo_.empty()) {
    undo_.back()();
    undo_.pop_back();
  }
}

}  // namespace quire
