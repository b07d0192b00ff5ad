// A team of threads for one call. Where the process has an OpenMP pool that can be borrowed (torch's own), the team
// comes from there: its threads are warm, and threads of ours beside it would compete with them for the cores, because
// they spin for a while after every region. Elsewhere threads are made when a call begins and gone when it ends.
#pragma once
#include <atomic>
#include <pthread.h>
#include <sched.h>

// The entry points of an OpenMP library already in the process (GCC's names and signatures); null: none.
struct Pool {
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned) = nullptr;
    int (*thread_num)() = nullptr, (*num_threads)() = nullptr;
};
inline Pool pool;

class Team {
  public:
    int64_t size;
    explicit Team(int64_t size) : size(size) {}

    // Every member waits until all have come. Spins briefly, then gives its core away: on a busy machine the member
    // that is waited for may need it.
    void wait() {
        if (size == 1) return;
        int64_t round = arrived.fetch_add(1, std::memory_order_acq_rel) / size + 1;
        for (int64_t spins = 0; arrived.load(std::memory_order_acquire) < round * size; spins++) {
            if (spins > 4000) sched_yield();
#if defined(__x86_64__)
            else __builtin_ia32_pause();
#endif
        }
    }

    // Run work(member) for members 0..size-1. Fewer than asked for if the system has no more to give: `size` is then
    // what there is.
    template <class Work> void run(Work &work) {
        if (size > LIMIT) size = LIMIT;
        if (size == 1) return work(0);
        if (pool.parallel) {
            struct Job {
                Team *team;
                Work *work;
            } job{this, &work};
            auto enter = [](void *p) {
                Job *job = (Job *)p;
                int64_t member = pool.thread_num();
                if (member == 0) job->team->begin(pool.num_threads());
                else job->team->wait_for_begin();
                (*job->work)(member);
            };
            return pool.parallel(enter, &job, (unsigned)size, 0);
        }
        struct Member {
            Team *team;
            Work *work;
            int64_t index;
            pthread_t thread;
        };
        Member members[LIMIT];
        int64_t made = 1;
        for (; made < size; made++) {
            members[made] = {this, &work, made, {}};
            auto enter = [](void *p) -> void * {
                Member *m = (Member *)p;
                m->team->wait_for_begin();
                (*m->work)(m->index);
                return nullptr;
            };
            if (pthread_create(&members[made].thread, nullptr, enter, &members[made])) break;
        }
        begin(made);
        work(0);
        for (int64_t i = 1; i < made; i++) pthread_join(members[i].thread, nullptr);
    }

    static constexpr int64_t LIMIT = 256;

  private:
    void begin(int64_t members) {
        size = members;
        open.store(true, std::memory_order_release);
    }
    void wait_for_begin() {
        while (!open.load(std::memory_order_acquire)) sched_yield();
    }

    alignas(64) std::atomic<int64_t> arrived{0};
    alignas(64) std::atomic<bool> open{false};
};
