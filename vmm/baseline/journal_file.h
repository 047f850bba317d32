// A file of lines that says how to undo what a process has changed, so that it is undone even if that process is
// killed. Each line is written before the change that it undoes is made, and taken off after it has been undone: at any
// moment the file holds all that is to be undone, and perhaps one thing more.
//
//   {"boot":"0c7f...","process":4242,"started":123456}      whose changes, and since when the host has been up
//   ...                                                     what the lines mean is its user's business
//
// Whoever holds the file's lock (flock) may use it. docs/locking.md has what happens when processes are killed.
#ifndef QUIRE_VMM_BASELINE_JOURNAL_FILE_H_
#define QUIRE_VMM_BASELINE_JOURNAL_FILE_H_

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/unique_fd.h"

namespace quire {

// Belongs to one thread.
class JournalFile {
 public:
  // Makes a new file and locks it: nobody else may look for journals at that time. Errors: what system calls report.
  static absl::StatusOr<JournalFile> Create(const std::string& path);
  // Reads one that is there, `fd`, which the caller has locked. A last line that is not complete is left out: its
  // change was not made.
  static JournalFile Read(UniqueFd fd, const std::string& path);

  // `line` has no line break. Errors: what system calls report; the change must not be made then.
  absl::Status Add(absl::string_view line);
  // Takes off all lines but the first `count`. Errors: what system calls report.
  absl::Status Keep(size_t count);
  // Has these lines in place of all others, at once. The caller has the directory locked, as LockJournals does it.
  // Errors: what system calls report; nothing has changed then.
  absl::Status Rewrite(const std::vector<std::string>& lines);
  // Nobody needs it any more: others that wait for its lock find it gone.
  void Remove();

  // Without the first line.
  const std::vector<std::string>& lines() const { return lines_; }
  const std::string& path() const { return path_; }
  // Whether the host has been started anew since: nothing of what was changed is left.
  bool outdated() const { return outdated_; }
  // Whose changes these are; 0 if its first line does not say.
  pid_t process() const { return process_; }

 private:
  JournalFile(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  absl::Status Append(const std::string& text);
  void ReadFirstLine(absl::string_view line);

  UniqueFd fd_;
  std::string path_;
  std::vector<std::string> lines_;
  std::vector<off_t> begins_;  // of each line in the file
  off_t end_ = 0;
  bool outdated_ = false;
  pid_t process_ = 0;
};

// Makes the directory if need be, and locks it: the lock of a journal is looked at, and a new journal made, by one at a
// time. Errors: FailedPrecondition: others than this user can write to it; what system calls report.
absl::StatusOr<UniqueFd> LockJournals(const std::string& directory);

// Opens and locks the journal of a process that has ended; waits for who plays it back at the moment, if somebody does.
// No descriptor: there is none, or not any more. Errors: FailedPrecondition: its process is not done, as `in_use` says,
// a sentence's beginning; PermissionDenied: it is not a file that this user alone can write to.
absl::StatusOr<UniqueFd> OpenLeftBehind(const std::string& path, absl::string_view in_use);

// Whether the process that the journal `fd` belongs to is still there. It need not be locked.
bool IsOwnerAlive(int fd);

// flock, but for signals. False: somebody else has the lock, and `operation` says not to wait.
bool Lock(int fd, int operation);

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_JOURNAL_FILE_H_
