#include "vmm/control/server.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/control/client.h"
#include "vmm/control/request.h"
#include "vmm/control/socket_place.h"

namespace quire {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ControlServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    // A socket's path is short; the one of a test's own directory need not be.
    char directory[] = "/tmp/quire-control-XXXXXX";
    ASSERT_NE(mkdtemp(directory), nullptr);
    directory_ = directory;
    path_ = directory_ + "/run.sock";
  }
  void TearDown() override {
    server_.reset();
    unlink(path_.c_str());
    rmdir(directory_.c_str());
  }
  void Start(absl::Duration patience = absl::Minutes(10)) {
    server_ = ControlServer::Start(
                  path_,
                  [this](absl::string_view request) {
                    ++answered_;
                    return absl::StrCat(R"({"length": )", request.size(), "}", std::string(padding_, ' '));
                  },
                  patience)
                  .value();
  }
  UniqueFd Connect() { return ConnectTo(path_).value(); }
  static void Send(const UniqueFd& socket, absl::string_view bytes) {
    ASSERT_EQ(send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
  }
  // All that comes until the server hangs up.
  static std::string ReadAll(const UniqueFd& socket) {
    std::string all;
    char bytes[4096];
    for (ssize_t count; (count = recv(socket.get(), bytes, sizeof bytes, 0)) > 0;) {
      all.append(bytes, static_cast<size_t>(count));
    }
    return all;
  }
  std::string Ask(absl::string_view request) {
    const UniqueFd socket = Connect();
    Send(socket, request);
    return ReadAll(socket);
  }

  std::string directory_;
  std::string path_;
  std::atomic<int> answered_ = 0;
  std::atomic<size_t> padding_ = 0;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlServerTest, ALineIsAnsweredByALine) {
  Start();
  EXPECT_EQ(Ask("hello\n"), "{\"length\": 5}\n");
  EXPECT_EQ(Ask("\n"), "{\"length\": 0}\n");
  EXPECT_EQ(Ask(absl::string_view("\0\xff\r\n", 4)), "{\"length\": 3}\n");
}

TEST_F(ControlServerTest, OnlyItsUserMayConnectAndNothingIsLeftBehind) {
  Start();
  struct stat found;
  ASSERT_EQ(stat(path_.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  server_.reset();
  EXPECT_NE(stat(path_.c_str(), &found), 0);
}

TEST_F(ControlServerTest, ALastLineNeedsNoBreak) {
  Start();
  const UniqueFd socket = Connect();
  Send(socket, "hello");
  shutdown(socket.get(), SHUT_WR);
  EXPECT_EQ(ReadAll(socket), "{\"length\": 5}\n");
}

TEST_F(ControlServerTest, ALineThatComesInPiecesIsOne) {
  Start();
  const UniqueFd socket = Connect();
  for (const char* piece : {"a", "bc", "d\nrest"}) Send(socket, piece);
  EXPECT_EQ(ReadAll(socket), "{\"length\": 4}\n");
}

TEST_F(ControlServerTest, AnEndlessLineIsAnsweredBeforeItEnds) {
  Start();
  const UniqueFd socket = Connect();
  const std::string much(1 << 20, 'x');
  // Until the server hangs up.
  while (send(socket.get(), much.data(), 4096, MSG_NOSIGNAL) > 0) {
  }
  EXPECT_EQ(answered_, 1);
  EXPECT_THAT(Ask("hello\n"), HasSubstr("5"));
}

TEST_F(ControlServerTest, ClientsThatSayNothingKeepNobodyOut) {
  Start(absl::Milliseconds(200));
  std::vector<UniqueFd> silent;
  for (size_t i = 0; i < ControlServer::kMostConnections + 4; ++i) silent.push_back(Connect());
  EXPECT_EQ(Ask("hello\n"), "{\"length\": 5}\n");
  EXPECT_EQ(ReadAll(silent[0]), "");
}

TEST_F(ControlServerTest, ClientsThatTakeNoAnswerKeepNobodyOut) {
  padding_ = 4 << 20;  // more than a socket holds
  Start(absl::Milliseconds(200));
  std::vector<UniqueFd> deaf;
  for (size_t i = 0; i < ControlServer::kMostConnections; ++i) {
    deaf.push_back(Connect());
    Send(deaf.back(), "hello\n");
  }
  const UniqueFd socket = Connect();
  Send(socket, "hello\n");
  EXPECT_THAT(ReadAll(socket).substr(0, 20), HasSubstr("{\"length\": 5}"));
}

TEST_F(ControlServerTest, ClientsThatHangUpInTheMiddleHarmNobody) {
  padding_ = 4 << 20;
  Start();
  for (int i = 0; i < 50; ++i) {
    const UniqueFd socket = Connect();
    if (i % 3 > 0) Send(socket, i % 3 == 1 ? "hal" : "hello\n");
  }
  padding_ = 0;
  EXPECT_THAT(Ask("hello\n").substr(0, 13), HasSubstr("{\"length\": 5}"));
}

TEST_F(ControlServerTest, ManyClientsAtOnceAreAllAnswered) {
  Start();
  std::vector<std::thread> clients;
  std::atomic<int> right = 0;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      for (int n = 0; n < 50; ++n) right += Ask("hello\n") == "{\"length\": 5}\n" ? 1 : 0;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 400);
}

TEST_F(ControlServerTest, ItStopsWithClientsConnected) {
  Start();
  const UniqueFd silent = Connect();
  server_.reset();
  EXPECT_EQ(ReadAll(silent), "");
}

TEST_F(ControlServerTest, ASocketThatNobodyListensOnIsReplacedAndNothingElseIs) {
  const UniqueFd stale(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = SocketAddress(path_).value();
  ASSERT_EQ(bind(stale.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  Start();
  EXPECT_EQ(Ask("hello\n"), "{\"length\": 5}\n");
  const auto start = [&](const std::string& path) {
    return ControlServer::Start(path, [](absl::string_view) { return std::string(); }).status();
  };
  EXPECT_THAT(std::string(start(path_).message()), HasSubstr("another run listens there"));
  EXPECT_THAT(std::string(start(directory_).message()), HasSubstr("there is something else"));
  EXPECT_THAT(std::string(start(directory_ + "/none/run.sock").message()), HasSubstr("No such file"));
  EXPECT_TRUE(absl::IsInvalidArgument(start(std::string(200, 'x'))));
}

TEST_F(ControlServerTest, ARunIsFoundAndAsked) {
  Start();
  EXPECT_THAT(RunningSockets({directory_, "/nowhere"}), ElementsAre(path_));
  EXPECT_EQ(AskRun(path_, {.guest = "0", .gfn = 1}).value(), "{\"length\": 21}");
  server_.reset();
  EXPECT_TRUE(RunningSockets({directory_}).empty());
  EXPECT_THAT(std::string(AskRun(path_, {.guest = "0"}).status().message()), HasSubstr("no run of guests listens on"));
}

TEST(ChooseSocketTest, TheOnlyRunNeedsNoName) {
  EXPECT_EQ(ChooseSocket(std::nullopt, {"/a"}).value(), "/a");
  EXPECT_EQ(ChooseSocket("/b", {"/a"}).value(), "/b");
  EXPECT_THAT(std::string(ChooseSocket(std::nullopt, {}).status().message()), HasSubstr("no run of guests was found"));
  EXPECT_THAT(std::string(ChooseSocket(std::nullopt, {"/a", "/b"}).status().message()),
              HasSubstr("--socket=/a or --socket=/b"));
}

TEST(PlaceForSocketTest, ADirectoryThatOthersMayWriteToIsPassedBy) {
  char top[] = "/tmp/quire-place-XXXXXX";
  ASSERT_NE(mkdtemp(top), nullptr);
  const std::string open = absl::StrCat(top, "/open"), own = absl::StrCat(top, "/own");
  ASSERT_EQ(mkdir(open.c_str(), 0777), 0);
  ASSERT_EQ(chmod(open.c_str(), 0777), 0);
  EXPECT_EQ(PlaceForSocket({"/proc/none", open, own}).value(), absl::StrCat(own, "/", getpid(), ".sock"));
  EXPECT_TRUE(absl::IsFailedPrecondition(PlaceForSocket({open}).status()));
  for (const std::string& directory : {open, own, std::string(top)}) rmdir(directory.c_str());
}

TEST(AnswerTextTest, SentencesAreForPeople) {
  EXPECT_EQ(AnswerText(R"({"title": "Page 7 of guest-0", "sentences": ["It is out.", "So."]})").value(),
            "Page 7 of guest-0\n  It is out.\n  So.\n");
  for (const char* other : {"", "[]", "{}", R"({"title": 1, "sentences": []})"}) {
    EXPECT_FALSE(AnswerText(other).ok()) << other;
  }
}

}  // namespace
}  // namespace quire
