// One connection to an NBD server: requests go in from any thread, one thread drives it and sees replies, time-outs and
// its end.
#ifndef QUIRE_GUEST_SWAP_NBD_CONNECTION_H_
#define QUIRE_GUEST_SWAP_NBD_CONNECTION_H_

#include <poll.h>

#include <cstddef>
#include <cstdint>
#include <list>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/units.h"
#include "guest/swap/nbd_library.h"

namespace quire {

// What the server said of an export when the connection was made.
struct NbdExport {
  ByteCount size = {};
  ByteCount minimum_block = {};    // what offsets and lengths have to be multiples of
  ByteCount maximum_payload = {};  // of one request
  bool read_only = false;
  bool can_trim = false;
  bool multi_conn = false;  // what one connection has written, the others read
};

class NbdConnection;
struct NbdRequest;

// Who wants to know how a request ended.
class NbdCompletion {
 public:
  // Called once for each request that was submitted, by any thread and under the connection's lock: it is brief, and
  // calls no connection. `error` is zero, what the server answered (an errno of those that NBD knows), or kLost.
  // Nothing touches the request or its bytes after this.
  virtual void Done(NbdRequest& request, int error) = 0;

  // The connection ended before the answer came: whether the server did it is not known.
  static constexpr int kLost = -1;

 protected:
  ~NbdCompletion() = default;
};

// Belongs to who submits it, and stays where it is until Done.
struct NbdRequest {
  enum class Kind : uint8_t { kRead, kWrite, kTrim };
  Kind kind = Kind::kRead;
  ByteCount offset = {};
  ByteCount length = {};
  std::byte* bytes = nullptr;  // none for kTrim
  NbdCompletion* completion = nullptr;

  // The connection's own.
  NbdConnection* connection = nullptr;
  MonotonicTime submitted = {};
  std::list<NbdRequest*>::iterator place = {};
};

// Submit may be called by any thread; the rest belongs to one, the driver. It is closed until it is opened, and may be
// opened again after it was closed. Its lock is taken with no other held; completions are called under it.
class NbdConnection {
 public:
  NbdConnection(const NbdLibrary& nbd, std::string uri) : nbd_(nbd), uri_(std::move(uri)) {}
  ~NbdConnection() { Close(); }
  NbdConnection(const NbdConnection&) = delete;
  NbdConnection& operator=(const NbdConnection&) = delete;

  // Connects and negotiates, for `timeout` at most, or until `stop_fd` is readable. To find the server's address by its
  // name may take the resolver longer.
  // Errors: InvalidArgument  the URI
  //         Unavailable      there is no server, or it did not answer as an NBD server does
  absl::StatusOr<NbdExport> Open(absl::Duration timeout, int stop_fd);
  // Ends all requests under way as lost.
  void Close();

  // Sends a request, or has the driver send it when the socket takes no more. On a connection that has ended the
  // request is lost at once. Returns whether the driver has something to do that poll() does not tell it.
  [[nodiscard]] bool Submit(NbdRequest& request);

  // What to wait for.
  pollfd Poll();
  // Does what can be done now, by what poll() said. A request without an answer after `timeout` ends the connection.
  // Errors: Unavailable  the connection has ended, and why. It is to be closed
  absl::Status Drive(int16_t revents, absl::Duration timeout);

 private:
  static int OnCompletion(void* request, int* error);

  absl::StatusOr<NbdExport> Negotiate(struct nbd_handle* handle, absl::Duration timeout, int stop_fd);
  absl::StatusOr<NbdExport> Describe(struct nbd_handle* handle);
  int64_t Issue(NbdRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void Finish(NbdRequest& request, int error) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  // Remembers the end of the connection, if it has come.
  void NoticeEnd() ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  void End(std::string why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(lock_);
  std::string LastError() const;

  const NbdLibrary& nbd_;
  const std::string uri_;
  absl::Mutex lock_;
  struct nbd_handle* handle_ ABSL_GUARDED_BY(lock_) = nullptr;  // none: closed
  bool ended_ ABSL_GUARDED_BY(lock_) = false;                   // it is to be closed
  std::string why_ ABSL_GUARDED_BY(lock_);
  std::list<NbdRequest*> under_way_ ABSL_GUARDED_BY(lock_);  // the oldest first
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_NBD_CONNECTION_H_
