#include "guest/swap/testing/fake_nbd_server.h"

#include <endian.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/check.h"

namespace quire {
namespace {

// The NBD protocol (doc/proto.md), all of it big-endian.
constexpr absl::string_view kGreeting("NBDMAGICIHAVEOPT\0\3", 18);  // NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES
constexpr uint64_t kOptionReplyMagic = 0x3e889045565a9;
constexpr uint32_t kOptionGo = 7;
constexpr uint32_t kReplyAck = 1;
constexpr uint32_t kReplyInfo = 3;
constexpr uint32_t kReplyUnsupported = 0x80000001;
constexpr uint16_t kWrite = 1;

template <class Integer>
void Append(std::string& bytes, Integer value) {
  for (int shift = 8 * (sizeof(value) - 1); shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(value >> shift));
}

std::string OptionReply(uint32_t option, uint32_t type, absl::string_view data) {
  std::string bytes;
  Append(bytes, kOptionReplyMagic);
  Append(bytes, option);
  Append(bytes, type);
  Append(bytes, static_cast<uint32_t>(data.size()));
  bytes.append(data.data(), data.size());
  return bytes;
}

struct [[gnu::packed]] OptionHeader {
  uint64_t magic;
  uint32_t option;
  uint32_t length;
};

struct [[gnu::packed]] RequestHeader {
  uint32_t magic;
  uint16_t flags;
  uint16_t type;
  uint64_t cookie;
  uint64_t offset;
  uint32_t length;
};

}  // namespace

bool NbdClient::ReceiveExactly(void* bytes, size_t length) {
  return recv(fd_, bytes, length, MSG_WAITALL) == static_cast<ssize_t>(length);
}

bool NbdClient::Skip(size_t length) {
  std::array<char, 4096> nowhere;
  while (length > 0) {
    const size_t part = std::min(length, nowhere.size());
    if (!ReceiveExactly(nowhere.data(), part)) return false;
    length -= part;
  }
  return true;
}

bool NbdClient::Send(absl::string_view bytes) {
  return send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(bytes.size());
}

void NbdClient::AwaitEnd() {
  char byte;
  while (recv(fd_, &byte, 1, 0) == 1) {
  }
}

bool NbdClient::Greet(uint64_t size, uint16_t flags) {
  uint32_t client_flags;
  if (!Send(kGreeting) || !ReceiveExactly(&client_flags, sizeof(client_flags))) return false;
  while (true) {
    OptionHeader header;
    if (!ReceiveExactly(&header, sizeof(header)) || !Skip(be32toh(header.length))) return false;
    const uint32_t option = be32toh(header.option);
    if (!AnswerOption(option, size, flags)) return false;
    if (option == kOptionGo) return true;
  }
}

bool NbdClient::AnswerOption(uint32_t option, uint64_t size, uint16_t flags) {
  if (option != kOptionGo) return Send(OptionReply(option, kReplyUnsupported, ""));
  std::string info;
  Append(info, uint16_t{0});  // NBD_INFO_EXPORT
  Append(info, size);
  Append(info, flags);
  return Send(OptionReply(option, kReplyInfo, info) + OptionReply(option, kReplyAck, ""));
}

bool NbdClient::Receive(Request& request) {
  RequestHeader header;
  if (!ReceiveExactly(&header, sizeof(header))) return false;
  request = {.type = be16toh(header.type),
             .cookie = be64toh(header.cookie),
             .offset = be64toh(header.offset),
             .length = be32toh(header.length)};
  return request.type != kWrite || Skip(request.length);
}

bool NbdClient::Reply(uint64_t cookie, uint32_t error, uint32_t magic) {
  std::string bytes;
  Append(bytes, magic);
  Append(bytes, error);
  Append(bytes, cookie);
  return Send(bytes);
}

FakeNbdServer::FakeNbdServer(std::function<void(NbdClient)> serve) : serve_(std::move(serve)) {
  char directory[] = "/tmp/fake-nbd-XXXXXX";
  QUIRE_CHECK(mkdtemp(directory) != nullptr);
  directory_ = directory;
  listener_.reset(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  const std::string path = directory_ + "/socket";
  path.copy(address.sun_path, sizeof(address.sun_path) - 1);
  QUIRE_CHECK(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  QUIRE_CHECK(listen(listener_.get(), SOMAXCONN) == 0);
  acceptor_ = std::thread([this] { Accept(); });
}

void FakeNbdServer::Accept() {
  while (true) {
    UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) return;
    absl::MutexLock lock(&lock_);
    if (stopping_) return;
    threads_.emplace_back([this, fd = client.get()] {
      serve_(NbdClient(fd));
      shutdown(fd, SHUT_RDWR);
    });
    clients_.push_back(std::move(client));
  }
}

FakeNbdServer::~FakeNbdServer() {
  std::vector<std::thread> threads;
  {
    absl::MutexLock lock(&lock_);
    stopping_ = true;
    for (const UniqueFd& client : clients_) shutdown(client.get(), SHUT_RDWR);
    threads.swap(threads_);
  }
  shutdown(listener_.get(), SHUT_RDWR);
  acceptor_.join();
  for (std::thread& thread : threads) thread.join();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

}  // namespace quire
