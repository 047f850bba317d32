// A server that greets as NBD servers do, or does not, and then does to its client what a test wants.
#ifndef QUIRE_GUEST_SWAP_TESTING_FAKE_NBD_SERVER_H_
#define QUIRE_GUEST_SWAP_TESTING_FAKE_NBD_SERVER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "base/unique_fd.h"

namespace quire {

// A connection, as the server sees it. Blocks; what fails returns false.
class NbdClient {
 public:
  struct Request {
    uint16_t type = 0;  // 0 read, 1 write, 4 trim
    uint64_t cookie = 0;
    uint64_t offset = 0;
    uint32_t length = 0;
  };

  explicit NbdClient(int fd) : fd_(fd) {}

  // The newstyle handshake, with these size and flags of the export (NBD_FLAG_*).
  bool Greet(uint64_t size, uint16_t flags);
  // The next request, its payload thrown away.
  bool Receive(Request& request);
  // A simple reply without data. `magic` is right for 0x67446698.
  bool Reply(uint64_t cookie, uint32_t error, uint32_t magic = 0x67446698);
  bool Send(absl::string_view bytes);
  // Returns when the client or the server's destructor closes the connection.
  void AwaitEnd();

 private:
  bool ReceiveExactly(void* bytes, size_t length);
  bool Skip(size_t length);
  bool AnswerOption(uint32_t option, uint64_t size, uint16_t flags);

  const int fd_;
};

// Listens on a Unix socket and calls `serve` for each connection, each on a thread of its own; the connection is closed
// when `serve` returns. The destructor ends all of them.
class FakeNbdServer {
 public:
  explicit FakeNbdServer(std::function<void(NbdClient)> serve);
  ~FakeNbdServer();

  std::string uri() const { return "nbd+unix:///?socket=" + directory_ + "/socket"; }

 private:
  void Accept();

  const std::function<void(NbdClient)> serve_;
  std::string directory_;
  UniqueFd listener_;
  absl::Mutex lock_;
  bool stopping_ ABSL_GUARDED_BY(lock_) = false;
  std::list<UniqueFd> clients_ ABSL_GUARDED_BY(lock_);  // kept open for the destructor to end
  std::vector<std::thread> threads_ ABSL_GUARDED_BY(lock_);
  std::thread acceptor_;
};

}  // namespace quire

#endif  // QUIRE_GUEST_SWAP_TESTING_FAKE_NBD_SERVER_H_
