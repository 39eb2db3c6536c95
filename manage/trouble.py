"""The line that every verb prints when Redis fails."""


def redis_words(error: BaseException) -> str | None:
    """What is wrong with Redis, what to do, and whether a task may be queued all the same.

    None if the error is not about Redis.
    """
    from native.redis_trouble import about_results, explain, of_redis, sentence
    from tasks.errors import BrokerUnavailableError
    from tasks.settings import get_settings

    if (cause := of_redis(error)) is None:
        return None
    redis = get_settings().redis
    if about_results(error):
        return f"{sentence(cause, redis.results)}. What became of the task is not known; the task goes on by itself"
    said = sentence(cause, redis.broker)
    if isinstance(error, BrokerUnavailableError) and explain(cause, redis.broker).is_in_doubt:
        return f"{said}. The task may be queued all the same"
    return said
