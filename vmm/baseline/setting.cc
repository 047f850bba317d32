#include "vmm/baseline/setting.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/unique_fd.h"

namespace quire {

absl::StatusOr<std::string> ReadSetting(const std::string& path) {
  const UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return absl::ErrnoToStatus(errno, absl::StrCat("read ", path));
  std::string all;
  for (;;) {
    char text[4096];
    const ssize_t length = read(fd.get(), text, sizeof text);
    if (length < 0) return absl::ErrnoToStatus(errno, absl::StrCat("read ", path));
    if (length == 0) return std::string(absl::StripSuffix(all, "\n"));
    all.append(text, static_cast<size_t>(length));
  }
}

absl::Status WriteSetting(const std::string& path, absl::string_view value) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
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

uint64_t NumberIn(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSetting(path);
  uint64_t number = 0;
  return text.ok() && absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &number) ? number : 0;
}

}  // namespace quire
