// Files that the command line names: found wanting before the run starts, and written whole or not at all.
#ifndef QUIRE_VMM_FILES_H_
#define QUIRE_VMM_FILES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/units.h"

namespace quire {

// Whether the regular file `path`, the value of --`flag`, can be read and holds anything. Errors: InvalidArgument.
absl::Status CheckReadable(absl::string_view flag, const std::string& path);

// The contents of the regular file `path`, the value of --`flag`. Errors: those of CheckReadable; InvalidArgument if it
// is larger than `limit`.
absl::StatusOr<std::string> ReadWhole(absl::string_view flag, const std::string& path, ByteCount limit);

// Whether WriteWhole(path, ...) is going to work, as far as that can be known; "-" always is. Leaves no trace.
// Errors: InvalidArgument.
absl::Status CheckWritable(absl::string_view flag, const std::string& path);

// Writes `contents` to `path`, "-" being standard output. A regular file is replaced in one step, so nobody reads half
// a report; a device or pipe is written to as it is. Errors: Unavailable.
absl::Status WriteWhole(const std::string& path, absl::string_view contents);

// Writes `contents` to an open file, pipe or terminal. False, and errno says why: the rest of it could not be written.
bool WriteAll(int fd, absl::string_view contents);

}  // namespace quire

#endif  // QUIRE_VMM_FILES_H_
