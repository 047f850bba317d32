// Where a run of QEMU guests keeps its files: what they boot from, and what they write to their consoles.
#ifndef QUIRE_VMM_LIBVIRT_QEMU_RUN_DIRECTORY_H_
#define QUIRE_VMM_LIBVIRT_QEMU_RUN_DIRECTORY_H_

#include <sys/types.h>

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace quire {

// A directory below `parent` whose files everybody may read: QEMU runs as a user of its own. It goes, with all that is
// in it, with this object, in the process that made it; and if that was killed, when the next one is made.
class RunDirectory {
 public:
  // Errors: what system calls report.
  static absl::StatusOr<std::unique_ptr<RunDirectory>> Create(const std::string& parent = "/tmp");
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::string& path() const { return path_; }

 private:
  explicit RunDirectory(std::string path);

  const std::string path_;
  const pid_t process_;
};

// Copies a file to where QEMU reads it: libvirt makes QEMU's user the owner of files that a guest boots from, which is
// not to happen to the user's own. Returns `to`. Errors: what reading and writing report.
absl::StatusOr<std::string> CopyForAll(const std::string& from, const std::string& to);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_QEMU_RUN_DIRECTORY_H_
