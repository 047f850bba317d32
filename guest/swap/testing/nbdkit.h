// nbdkit(1) as a server for tests.
#ifndef QUIRE_GUEST_SWAP_TESTING_NBDKIT_H_
#define QUIRE_GUEST_SWAP_TESTING_NBDKIT_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace quire {

// A process that serves one export. It ends with this object, and with the thread that started it, so that none is left
// over by a test that crashes. Not thread safe.
class Nbdkit {
 public:
  enum class Transport { kUnix, kTcp };

  // Why a test that needs it has to be skipped; empty if it can run.
  static std::string WhyMissing();

  // Starts it with these arguments (filters, the plugin, their parameters) and returns when it accepts connections:
  // on a socket in a new folder below /tmp, or on a free port of 127.0.0.1.
  static absl::StatusOr<std::unique_ptr<Nbdkit>> Start(Transport transport, std::vector<std::string> arguments);
  ~Nbdkit();
  Nbdkit(const Nbdkit&) = delete;
  Nbdkit& operator=(const Nbdkit&) = delete;

  // Where it is, also after it was started again.
  std::string uri() const;
  // The path of its socket; of kUnix only.
  std::string socket() const { return directory_ + "/socket"; }
  // Its folder, for files that are to go when it goes.
  const std::string& directory() const { return directory_; }

  // Ends it at once (SIGKILL), if it runs.
  void Kill();
  // Starts it again, where it was, with these arguments.
  absl::Status Restart(std::vector<std::string> arguments);
  // Stops it from running (SIGSTOP) and lets it go on.
  void Freeze();
  void Thaw();

 private:
  Nbdkit(Transport transport, std::string directory) : transport_(transport), directory_(std::move(directory)) {}

  absl::Status Launch(const std::vector<std::string>& arguments);
  absl::Status AwaitReady();
  absl::Status ChoosePort();
  std::string Log() const;

  const Transport transport_;
  const std::string directory_;
  int port_ = 0;
  pid_t pid_ = -1;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_TESTING_NBDKIT_H_
