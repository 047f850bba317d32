// Experiments as jobs of a real Slurm, with one node: this host. Its daemons have directories, ports and a key of their
// own, and end with the test. It takes root, as slurmd does.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/experiment/quire_experiment.h"
#include "vmm/experiment/subprocess.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kMunged[] = "/usr/sbin/munged", kController[] = "/usr/sbin/slurmctld", kNode[] = "/usr/sbin/slurmd";

int FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  bind(fd, reinterpret_cast<sockaddr*>(&address), size);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return ntohs(address.sin_port);
}

std::string HostName() {
  char name[256] = {};
  gethostname(name, sizeof name - 1);
  return std::string(name).substr(0, std::string(name).find('.'));
}

// Nothing that a script of somebody else's would find: SLURM_CONF of this process names it.
class Slurm {
 public:
  Slurm() {
    if (mkdtemp(directory_.data()) == nullptr) std::abort();
    // What is started, and loses its parent, is this process's.
    prctl(PR_SET_CHILD_SUBREAPER, 1);
  }
  Slurm(const Slurm&) = delete;
  Slurm& operator=(const Slurm&) = delete;
  ~Slurm() {
    (void)RunProgram({"scancel", "--user=root"});
    for (auto daemon = daemons_.rbegin(); daemon != daemons_.rend(); ++daemon) End(*daemon);
    // What tasks have left.
    for (const absl::string_view child : absl::StrSplit(
             Contents(absl::StrCat("/proc/self/task/", getpid(), "/children")), ' ', absl::SkipWhitespace())) {
      kill(atoi(std::string(child).c_str()), SIGKILL);
    }
    QuireExperiment::WaitForOrphans();
    std::filesystem::remove_all(directory_);
  }

  // Why there is none; empty if it is ready for jobs.
  std::string Start() {
    for (const char* program : {kMunged, kController, kNode, "/usr/bin/sbatch"}) {
      if (access(program, X_OK) != 0) return absl::StrCat("there is no ", program, " (Debian's slurm-wlm and munge)");
    }
    WriteConfiguration();
    Daemon({kMunged, "--foreground", "--force", "--key-file=" + directory_ + "/key",
            "--socket=" + directory_ + "/munge", "--pid-file=" + directory_ + "/munged.pid",
            "--log-file=" + directory_ + "/munged.log", "--seed-file=" + directory_ + "/munged.seed"});
    if (!Await([&] { return access((directory_ + "/munge").c_str(), F_OK) == 0; }))
      return "munged has ended: " + Said();
    const std::string file = directory_ + "/slurm.conf";
    setenv("SLURM_CONF", file.c_str(), 1);
    Daemon({kController, "-D", "-i", "-f", file});
    Daemon({kNode, "-D", "-N", HostName(), "-f", file});
    const auto idle = [] {
      const absl::StatusOr<std::string> state = RunProgram({"sinfo", "--noheader", "--format=%T"});
      return state.ok() && absl::StripAsciiWhitespace(*state) == "idle";
    };
    return Await(idle) ? "" : "slurmctld or slurmd has ended: " + Said();
  }

 private:
  void WriteConfiguration() const {
    std::random_device random;
    std::ofstream key(directory_ + "/key", std::ios::binary);
    for (int i = 0; i < 64; ++i) key << absl::StrCat(absl::Hex(random(), absl::kZeroPad8));
    chmod((directory_ + "/key").c_str(), 0600);
    const std::string host = HostName();
    std::ofstream(directory_ + "/slurm.conf")
        << "ClusterName=quire\nSlurmctldHost=" << host << "(127.0.0.1)\nSlurmUser=root\nSlurmdUser=root\n"
        << "AuthType=auth/munge\nAuthInfo=socket=" << directory_ << "/munge\n"
        << "StateSaveLocation=" << directory_ << "/state\nSlurmdSpoolDir=" << directory_ << "/spool\n"
        << "SlurmctldPidFile=" << directory_ << "/slurmctld.pid\nSlurmdPidFile=" << directory_ << "/slurmd.pid\n"
        << "SlurmctldPort=" << FreePort() << "\nSlurmdPort=" << FreePort()
        << "\n"
        // No cgroups, no accounts, and a node that is as it says.
        << "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherType=jobacct_gather/none\n"
        << "AccountingStorageType=accounting_storage/none\nMpiDefault=none\nSlurmdParameters=config_overrides\n"
        << "ReturnToService=2\nKillWait=2\nSchedulerParameters=sched_interval=1,batch_sched_delay=0\n"
        << "NodeName=" << host << " NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN\n"
        << "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n";
    std::filesystem::create_directories(directory_ + "/state");
    std::filesystem::create_directories(directory_ + "/spool");
  }

  void Daemon(const std::vector<std::string>& words) {
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    const pid_t child = fork();
    if (child > 0) {
      daemons_.push_back(child);
      return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    const int log = open((directory_ + "/said").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    close(log);
    execv(argv[0], argv.data());
    _exit(127);
  }

  // False: a daemon has ended instead.
  template <class Done>
  bool Await(Done done) {
    while (!done()) {
      absl::SleepFor(absl::Milliseconds(50));
      for (pid_t& daemon : daemons_) {
        if (waitpid(daemon, nullptr, WNOHANG) != daemon) continue;
        daemon = 0;
        return false;
      }
    }
    return true;
  }

  // In ten seconds at most.
  static void End(pid_t daemon) {
    if (daemon == 0) return;
    kill(daemon, SIGTERM);
    for (int i = 0; i < 200; ++i) {
      if (waitpid(daemon, nullptr, WNOHANG) == daemon) return;
      absl::SleepFor(absl::Milliseconds(50));
    }
    kill(daemon, SIGKILL);
    waitpid(daemon, nullptr, 0);
  }

  std::string Said() const { return Contents(directory_ + "/said"); }

  std::string directory_ = "/tmp/quire-slurm-XXXXXX";
  std::vector<pid_t> daemons_;
};

// Guests that end when they have done their work. Each run is a task.
constexpr char kFour[] = R"(
repetitions = 2
[run]
accel = "soft"
pool = "32M"
seconds = 3600
[guests.a]
memory = "8M"
workload = "zipf:operations=3000"
[matrix]
merge = ["on", "off"]
)";

class SlurmExperimentTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (geteuid() != 0) {
      obstacle_ = "it takes root";
      return;
    }
    slurm_ = std::make_unique<Slurm>();
    obstacle_ = slurm_->Start();
  }
  static void TearDownTestSuite() { slurm_.reset(); }
  void SetUp() override {
    if (!obstacle_.empty()) GTEST_SKIP() << "NOTHING ABOUT EXPERIMENTS ON SLURM IS TESTED HERE: " << obstacle_;
  }

  // Waits until the job is there; its number.
  static std::string JobOf(const QuireExperiment& experiment, pid_t quire) {
    std::string job;
    QuireExperiment::WaitUntil(quire, [&] {
      const std::string said = Contents(experiment.directory() + "/said");
      const size_t at = said.find("Slurm job "), end = said.find(':', at);
      if (at == std::string::npos || end == std::string::npos) return false;
      job = said.substr(at + 10, end - at - 10);
      return true;
    });
    return job;
  }
  static void Command(const std::vector<std::string>& words) {
    const absl::StatusOr<std::string> answer = RunProgram(words);
    EXPECT_TRUE(answer.ok()) << answer.status();
  }

  const QuireExperiment experiment_{kFour};

 private:
  static inline std::unique_ptr<Slurm> slurm_;
  static inline std::string obstacle_;
};

TEST_F(SlurmExperimentTest, GivesWhatItGivesWithoutSlurmAndSubmitsNothingTwice) {
  const ProgramEnd end = experiment_.Run({"--slurm"});
  ASSERT_EQ(end.code(), 0) << end.said;
  EXPECT_THAT(end.said, HasSubstr(": 4 tasks, their output in "));
  EXPECT_THAT(end.said, HasSubstr("The page: "));
  const std::string here = experiment_.directory() + "/here";
  ASSERT_EQ(experiment_.Run({}, here).code(), 0);
  EXPECT_EQ(experiment_.Runs(), experiment_.Runs(here));
  for (const nlohmann::json& result : experiment_.Results()) {
    EXPECT_EQ(result["outcome"], "ok") << result["reason"];
    for (const nlohmann::json& other : experiment_.Results(here)) {
      if (other["run"] != result["run"]) continue;
      EXPECT_EQ(other["seed"], result["seed"]);
      EXPECT_EQ(other["settings"], result["settings"]);
      EXPECT_EQ(other["report"]["guests"][0]["operations"], result["report"]["guests"][0]["operations"]);
    }
  }
  EXPECT_TRUE(std::filesystem::exists(experiment_.out() + "/tasks/slurm-3.log"));

  const ProgramEnd again = experiment_.Run({"--slurm"});
  EXPECT_EQ(again.code(), 0) << again.said;
  EXPECT_THAT(again.said, Not(HasSubstr("Slurm job")));
}

TEST_F(SlurmExperimentTest, ATaskThatIsLostIsRunTheNextTime) {
  // Nothing begins until the task is gone.
  const pid_t quire = experiment_.Start({"--slurm", "--slurm_options=--exclusive --hold"});
  const std::string job = JobOf(experiment_, quire);
  ASSERT_NE(job, "");
  Command({"scancel", job + "_2"});
  Command({"scontrol", "release", job});
  const ProgramEnd end = experiment_.Wait(quire);
  EXPECT_EQ(end.code(), 1) << end.said;
  EXPECT_THAT(end.said, HasSubstr("1 run of 4 left no result"));
  EXPECT_EQ(experiment_.Results().size(), 3u);

  const ProgramEnd again = experiment_.Run({"--slurm"});
  EXPECT_EQ(again.code(), 0) << again.said;
  EXPECT_THAT(again.said, HasSubstr(": 1 task, "));
  EXPECT_EQ(experiment_.Runs().size(), 4u);
}

TEST_F(SlurmExperimentTest, InterruptedItCancelsItsJob) {
  const pid_t quire = experiment_.Start({"--slurm", "--slurm_options=--hold"});
  const std::string job = JobOf(experiment_, quire);
  ASSERT_NE(job, "");
  kill(quire, SIGINT);
  const ProgramEnd end = experiment_.Wait(quire);
  EXPECT_EQ(end.code(), 128 + SIGINT) << end.said;
  const absl::StatusOr<std::string> queue = RunProgram({"squeue", "--noheader", "--jobs=" + job});
  EXPECT_TRUE(!queue.ok() || queue->empty()) << *queue;
}

}  // namespace
}  // namespace quire
